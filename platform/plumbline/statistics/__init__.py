"""Statistics: intervals, paired and clustered inference, agreement, sequences. Pure: arrays in, numbers out."""
