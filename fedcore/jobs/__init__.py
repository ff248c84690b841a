"""What a person writes: job, federation and participant files, their schemas and their validation."""
