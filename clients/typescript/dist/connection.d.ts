/** Sends calls with a deadline, and repeats and hedges them as the options say. */
export interface ClientOptions {
    /** Deadline of a call in milliseconds, attempts and pauses included. */
    timeoutMs?: number;
    /** The caller's key, which every call sends. */
    key?: string;
    /** The operators' token, which operators' calls send instead. */
    token?: string;
    attempts?: number;
    firstPauseMs?: number;
    longestPauseMs?: number;
    /** Sends a ranking a second time if there is no answer by then, and takes what comes first. */
    hedgeAfterMs?: number;
    fetch?: typeof fetch;
}
export interface Call {
    method: string;
    path: string;
    body?: unknown;
    operator?: boolean;
}
/** One service, and how it is called. */
export declare class Connection {
    #private;
    readonly options: Required<Pick<ClientOptions, "timeoutMs" | "attempts" | "firstPauseMs" | "longestPauseMs">> & ClientOptions;
    constructor(url: string, options?: ClientOptions);
    /** The answer of `attempt`, which is repeated as the options say, until `end`. */
    repeated<Answer>(end: number, attempt: () => Promise<Answer>): Promise<Answer>;
    /** The body of a 2xx answer; after `hedgeAfterMs` the call is sent a second time. */
    hedged(call: Call, end: number): Promise<string>;
    /** The body of a 2xx answer. */
    sent(call: Call, end: number, signal?: AbortSignal): Promise<string>;
}
