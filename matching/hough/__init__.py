"""Registration of point clouds by Hough voting in the space of rigid motions."""
