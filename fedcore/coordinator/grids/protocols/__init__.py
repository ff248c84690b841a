"""The coordinator's half of each protocol of secure aggregation, one file each; the participants' mirror them."""
