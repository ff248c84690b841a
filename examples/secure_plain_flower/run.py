"""Run the app over five virtual participants on Flower's simulation runtime."""

from app import client, server
from flwr.simulation import run_simulation

if __name__ == "__main__":
    run_simulation(server, client, num_supernodes=5)
