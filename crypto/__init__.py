"""Cryptographic building blocks: arrays and bytes in, arrays and bytes out.

No network, no Flower, no files, no fedcore. Set intersection, masking, secret sharing and homomorphic
encryption are added here by the protocols that need them; nothing in this version encrypts an update.
"""
