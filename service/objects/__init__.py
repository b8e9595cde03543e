"""The registry in an object store, and its copy in a folder of this host."""
