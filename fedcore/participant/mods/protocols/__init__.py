"""A participant's half of each protocol of secure aggregation, one file each; the coordinator's mirror them."""
