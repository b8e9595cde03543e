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
    #sending = null;
    constructor(send, options = {}) {
        this.#send = send;
        this.#options = { batch: 500, everyMs: 200, limit: 100_000, pauseAfterFailureMs: 1000, ...options };
        if (!(this.#options.batch >= 1 && this.#options.batch <= LARGEST_BATCH)) {
            throw new RangeError(`batch is 1 to ${LARGEST_BATCH}, not ${this.#options.batch}`);
        }
    }
    /** Never waits for the service. */
    add(row) {
        if (this.#waiting.length >= this.#options.limit) {
            this.#waiting.shift();
            this.dropped += 1;
        }
        this.#waiting.push(row);
        if (this.#waiting.length >= this.#options.batch) {
            void this.flush();
        }
        else {
            this.#later(this.#options.everyMs);
        }
    }
    /** Send what waits now, e.g. when a page is hidden. What the service cannot take now waits for the next time. */
    async flush() {
        this.#sending ??= this.#run().finally(() => {
            this.#sending = null;
        });
        await this.#sending;
    }
    async #run() {
        if (this.#timer !== null) {
            clearTimeout(this.#timer);
            this.#timer = null;
        }
        while (this.#waiting.length > 0) {
            const batch = this.#waiting.slice(0, this.#options.batch);
            try {
                await this.#send(batch);
                this.#remove(batch);
                this.sent += batch.length;
            }
            catch (error) {
                if (error instanceof BadRequest || error instanceof NotAllowed) {
                    // The service refuses these records for ever. Others must not wait behind them, nor be lost with them.
                    const refused = refusedRows(batch, error);
                    this.#remove(refused);
                    this.dropped += refused.length;
                }
                else if (error instanceof FunnelrankError) {
                    this.#later(this.#options.pauseAfterFailureMs);
                    return;
                }
                else {
                    throw error;
                }
            }
        }
    }
    #remove(rows) {
        const gone = new Set(rows);
        const rest = this.#waiting.filter((row) => !gone.has(row));
        this.#waiting.splice(0, this.#waiting.length, ...rest);
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
