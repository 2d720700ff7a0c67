"""Matchers: images or clouds in, correspondences out."""
