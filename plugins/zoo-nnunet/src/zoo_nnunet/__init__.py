"""nnU-Net as an external contender: trained by its own commands on the raw data that zoo writes."""
