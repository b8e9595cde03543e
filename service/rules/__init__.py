"""The second stage of a ranking: rules that filter, boost, place and diversify candidates after fusion."""
