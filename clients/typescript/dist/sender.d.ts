/** Sends records in the background, in batches, so that a page never waits for them. */
export interface SenderOptions {
    /** Records of one call, 1 to 1000. */
    batch?: number;
    everyMs?: number;
    /** Records that may wait; beyond it the oldest are dropped and counted. */
    limit?: number;
    pauseAfterFailureMs?: number;
}
/**
 * Collects records and sends them with `send`, as in
 * `new Sender((batch) => client.sendEvents(batch))`. Give each record an id, so that a repeated batch counts once.
 */
export declare class Sender<Row> {
    #private;
    sent: number;
    dropped: number;
    constructor(send: (batch: readonly Row[]) => Promise<unknown>, options?: SenderOptions);
    /** Never waits for the service. Throws TypeError for a record that JSON cannot hold, e.g. with a BigInt. */
    add(row: Row): void;
    /**
     * Send what waits now, e.g. when a page is hidden. What the service cannot take now waits for the next time. The
     * promise is never rejected: a failure that no repetition can repair is logged, and its records count as dropped.
     */
    flush(): Promise<void>;
}
