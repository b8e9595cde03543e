"""What is live: the rollout document, the follower of each worker, and the checks on a new version."""
