/** Errors of the client: one class for each thing that a caller can do about it. */
export interface BadField {
    field: string;
    message: string;
}
/** Any failure of a call. */
export declare class FunnelrankError extends Error {
    constructor(message: string, options?: ErrorOptions);
}
/** The service could not be reached, the connection broke too early, or the answer is not one of the service. */
export declare class NoAnswer extends FunnelrankError {
}
/** The deadline of the call passed, in the service (504) or on the way. */
export declare class DeadlineExceeded extends FunnelrankError {
}
export interface ProblemFields {
    status: number;
    code: string;
    detail: string;
    requestId: string;
    errors: BadField[];
    retryAfterMs: number | null;
}
/** The service refused the call. `code` is stable and meant for programs, `detail` is meant for people. */
export declare class ProblemError extends FunnelrankError implements ProblemFields {
    readonly status: number;
    readonly code: string;
    readonly detail: string;
    readonly requestId: string;
    readonly errors: BadField[];
    readonly retryAfterMs: number | null;
    constructor(fields: ProblemFields);
}
/** The call is wrong and stays wrong if it is repeated (400, 404, 405, 413, 422). */
export declare class BadRequest extends ProblemError {
}
/** The key or token is missing or wrong or permits less, or the call may not come from here (401, 403). */
export declare class NotAllowed extends ProblemError {
}
/** The document has changed since it was read (409, 412). Read it again, then decide. */
export declare class Conflict extends ProblemError {
}
/** The service cannot answer now (503), or not this caller (429). `retryAfterMs` is the pause that it asks for. */
export declare class Unavailable extends ProblemError {
}
/**
 * The error for an answer that is not 2xx. Whatever stands between the service and the client may answer too: then there
 * is no problem document, and `code` is empty.
 */
export declare function errorOf(status: number, retryAfter: string | null, body: string): FunnelrankError;
