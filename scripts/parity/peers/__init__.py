"""What check_peers.py and make_peers.py share: see the modules."""
