/** Sends records in the background, in batches, so that a page never waits for them. */
import { BadRequest, FunnelrankError, NotAllowed } from "./errors.js";
const LARGEST_BATCH = 1000;
/**
 * Collects records and sends them with `send`, as in
 * `new Sender((batch) => client.sendEvents(batch))`. Give each record an id, so that a repeated batch counts once.
 */
export class Sender {
    sent = 0;
    dropped = 0;
    #send;
    #options;
    #waiting = [];
    #timer = null;
    #pausing = false; // after a failure, until the timer or the caller flushes
    #sending = null;
    constructor(send, options = {}) {
        this.#send = send;
        this.#options = { batch: 500, everyMs: 200, limit: 100_000, pauseAfterFailureMs: 1000, ...options };
        if (!(this.#options.batch >= 1 && this.#options.batch <= LARGEST_BATCH)) {
            throw new RangeError(`batch is 1 to ${LARGEST_BATCH}, not ${this.#options.batch}`);
        }
    }
    /** Never waits for the service. Throws TypeError for a record that JSON cannot hold, e.g. with a BigInt. */
    add(row) {
        JSON.stringify(row);
        if (this.#waiting.length >= this.#options.limit) {
            this.#waiting.shift();
            this.dropped += 1;
        }
        this.#waiting.push(row);
        if (this.#waiting.length >= this.#options.batch && !this.#pausing) {
            void this.flush();
        }
        else {
            this.#later(this.#options.everyMs);
        }
    }
    /**
     * Send what waits now, e.g. when a page is hidden. What the service cannot take now waits for the next time. The
     * promise is never rejected: a failure that no repetition can repair is logged, and its records count as dropped.
     */
    async flush() {
        this.#sending ??= this.#run().finally(() => {
            this.#sending = null;
            if (this.#waiting.length > 0) {
                this.#later(this.#options.everyMs);
            }
        });
        await this.#sending;
    }
    async #run() {
        this.#stopTimer();
        while (this.#waiting.length > 0) {
            const batch = this.#waiting.slice(0, this.#options.batch);
            try {
                await this.#send(batch);
                this.sent += this.#remove(batch);
            }
            catch (error) {
                if (error instanceof BadRequest || error instanceof NotAllowed) {
                    // The service refuses these records for ever. Others must not wait behind them, nor be lost with them.
                    this.#drop(refusedRows(batch, error));
                }
                else if (error instanceof FunnelrankError) {
                    // Records that were added meanwhile may have set an earlier timer.
                    this.#stopTimer();
                    this.#pausing = true;
                    this.#later(this.#options.pauseAfterFailureMs);
                    return;
                }
                else {
                    // A rejection here would end a Node process, and the records would stand before all later ones for ever.
                    console.error(`${batch.length} records are dropped:`, error);
                    this.#drop(batch);
                }
            }
        }
    }
    #drop(rows) {
        this.dropped += this.#remove(rows);
    }
    /** How many of `rows` were still waiting: those beyond the limit have left the queue and are counted already. */
    #remove(rows) {
        const removed = new Set(rows);
        const before = this.#waiting.length;
        this.#waiting = this.#waiting.filter((row) => !removed.has(row));
        return before - this.#waiting.length;
    }
    #stopTimer() {
        if (this.#timer !== null) {
            clearTimeout(this.#timer);
            this.#timer = null;
        }
        this.#pausing = false;
    }
    #later(ms) {
        this.#timer ??= setTimeout(() => {
            this.#timer = null;
            void this.flush();
        }, ms);
    }
}
/** The records that the error names, e.g. by `events[3].timestamp`; all if it names none. */
function refusedRows(batch, error) {
    const places = error.errors.map((bad) => /^\w+\[(\d+)\]/.exec(bad.field)?.[1]);
    const named = new Set(places.filter((place) => place !== undefined).map(Number));
    const refused = batch.filter((_, place) => named.has(place));
    return refused.length > 0 ? refused : batch;
}
