#!/bin/sh
# Copies a registry from a bucket into a folder: once, or again every INTERVAL_S seconds.
#
# The documents (rollout.json, fusion.json, ...) are read first and put in place last, each whole. A document therefore
# never names a bundle that this copy does not have, if bundles are uploaded before the documents that name them.
# .registry-id comes along, if there is one: loads from several pods then count as loads of one registry.
# Nothing is deleted here: a bundle that is removed from the bucket stays until the pod ends.
set -eu

copy() {
    rclone copy --checksum --include '/*.json' "$SOURCE" "$TARGET/.incoming" &&
        rclone copy --size-only --filter '+ /.registry-id' --filter '- /*' "$SOURCE" "$TARGET" &&
        place
}

place() {
    [ -e "$TARGET/.incoming/rollout.json" ] || { echo "the bucket has no rollout.json: nothing is live" >&2; return 1; }
    for document in "$TARGET"/.incoming/*.json; do
        [ "$(basename "$document")" = rollout.json ] || put "$(basename "$document")" || return
    done
    # Last, because the service starts as soon as it is there.
    put rollout.json
}

put() {
    cmp -s "$TARGET/.incoming/$1" "$TARGET/$1" ||
        { cp "$TARGET/.incoming/$1" "$TARGET/.$1.new" && mv "$TARGET/.$1.new" "$TARGET/$1" && echo "copied $1"; }
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
