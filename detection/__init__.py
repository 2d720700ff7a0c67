"""3D object detection with sparse convolution."""
