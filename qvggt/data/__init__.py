"""Images, frames and sequences; one reader per data set."""
