/** Errors of the client: one class for each thing that a caller can do about it. */
/** Any failure of a call. */
export class FunnelrankError extends Error {
    constructor(message, options) {
        super(message, options);
        this.name = new.target.name;
    }
}
/** The service could not be reached, the connection broke too early, or the answer is not one of the service. */
export class NoAnswer extends FunnelrankError {
}
/** The deadline of the call passed, in the service (504) or on the way. */
export class DeadlineExceeded extends FunnelrankError {
}
/** The service refused the call. `code` is stable and meant for programs, `detail` is meant for people. */
export class ProblemError extends FunnelrankError {
    status;
    code;
    detail;
    requestId;
    errors;
    retryAfterMs;
    constructor(fields) {
        super(`${fields.status} ${fields.code}: ${fields.detail}`);
        this.status = fields.status;
        this.code = fields.code;
        this.detail = fields.detail;
        this.requestId = fields.requestId;
        this.errors = fields.errors;
        this.retryAfterMs = fields.retryAfterMs;
    }
}
/** The call is wrong and stays wrong if it is repeated (400, 404, 405, 413, 422). */
export class BadRequest extends ProblemError {
}
/** The key or token is missing or wrong or permits less, or the call may not come from here (401, 403). */
export class NotAllowed extends ProblemError {
}
/** The document has changed since it was read (409, 412). Read it again, then decide. */
export class Conflict extends ProblemError {
}
/** The service cannot answer now (503), or not this caller (429). `retryAfterMs` is the pause that it asks for. */
export class Unavailable extends ProblemError {
}
const CLASSES = {
    400: BadRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: BadRequest,
    405: BadRequest,
    409: Conflict,
    412: Conflict,
    413: BadRequest,
    422: BadRequest,
    429: Unavailable,
    503: Unavailable,
};
const SHOWN_CHARACTERS = 200;
/**
 * The error for an answer that is not 2xx. Whatever stands between the service and the client may answer too: then there
 * is no problem document, and `code` is empty.
 */
export function errorOf(status, retryAfter, body) {
    const problem = problemOf(body);
    const detail = String(problem["detail"] ?? body.slice(0, SHOWN_CHARACTERS));
    const code = String(problem["code"] ?? "");
    if (status === 504) {
        return new DeadlineExceeded(`504 ${code}: ${detail}`);
    }
    const seconds = Number.parseFloat(retryAfter ?? "");
    const kind = CLASSES[status] ?? ProblemError;
    return new kind({
        status,
        code,
        detail,
        requestId: String(problem["request_id"] ?? ""),
        errors: badFieldsOf(problem["errors"]),
        retryAfterMs: Number.isFinite(seconds) ? Math.max(0, seconds * 1000) : null,
    });
}
function badFieldsOf(errors) {
    const entries = Array.isArray(errors) ? errors : [];
    return entries.filter((entry) => typeof entry === "object" && entry !== null);
}
function problemOf(body) {
    try {
        const problem = JSON.parse(body);
        return typeof problem === "object" && problem !== null ? problem : {};
    }
    catch {
        return {};
    }
}
