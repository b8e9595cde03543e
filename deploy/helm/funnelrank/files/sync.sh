#!/bin/sh
# Copies a registry from a bucket into a folder: once, or again every INTERVAL_S seconds.
#
# The documents (rollout.json, fusion.json, ...) are read first and put in place last, each whole. A document therefore
# never names a bundle that this copy does not have, if bundles are uploaded before the documents that name them.
# Nothing is deleted here: a bundle that is removed from the bucket stays until the pod ends.
set -eu

copy() {
    rclone copy --checksum --include '/*.json' "$SOURCE" "$TARGET/.incoming" &&
        rclone copy --size-only --exclude '/*' "$SOURCE" "$TARGET" &&
        place
}

place() {
    for document in "$TARGET"/.incoming/*.json; do
        [ -e "$document" ] || continue
        name=$(basename "$document")
        cmp -s "$document" "$TARGET/$name" && continue
        cp "$document" "$TARGET/.$name.new"
        mv "$TARGET/.$name.new" "$TARGET/$name"
        echo "copied $name"
    done
    [ -e "$TARGET/rollout.json" ] || { echo "the bucket has no rollout.json: nothing is live" >&2; return 1; }
}

if [ "${1:-once}" = once ]; then
    copy
    exit
fi
trap 'exit 0' TERM INT
while :; do
    copy || echo "the registry was not copied; the next attempt is in $INTERVAL_S s" >&2
    # A shell handles a signal only after its foreground command, so sleep runs in the background.
    sleep "$INTERVAL_S" &
    wait $!
done
