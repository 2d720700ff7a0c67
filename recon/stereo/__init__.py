"""Multi-view stereo on the CPU: depth and normals of posed photos."""
