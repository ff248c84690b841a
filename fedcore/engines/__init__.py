"""Where a job runs: in this process, on Ray, or on a real Flower federation. The same job on each."""
