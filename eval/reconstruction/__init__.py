"""Images or a video to files other programs open: point cloud, COLMAP model, depth maps, cameras, tracks."""
