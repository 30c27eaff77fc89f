"""What an evaluation can measure, by the words of --metrics."""

METRIC_GROUPS = ("pose", "depth", "points")
