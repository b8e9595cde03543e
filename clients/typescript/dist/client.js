/** The client. It needs `fetch` and `crypto`, which browsers and Node 20 have. */
import { fallbackRanking, parsed, rankingOf } from "./answers.js";
import { Connection } from "./connection.js";
import { FunnelrankError, ProblemError } from "./errors.js";
const ON_THE_WAY_MS = 5; // left of the deadline for the way of the answer
const CHANGE_TIMEOUT_MS = 60_000; // a change of the live version is verified before it is answered
export class Client {
    #connection;
    constructor(url, options = {}) {
        this.#connection = new Connection(url, options);
    }
    /** Rank `candidates` for a user. Throws FunnelrankError: BadRequest, Unavailable, DeadlineExceeded, NoAnswer. */
    async rank(userId, candidates, options = {}) {
        const { timeoutMs = this.#connection.options.timeoutMs, ...fields } = options;
        const end = performance.now() + timeoutMs;
        const named = { request_id: newId(), ...fields };
        return this.#connection.repeated(end, async () => {
            const left = Math.max(1, Math.floor(end - performance.now()) - ON_THE_WAY_MS);
            const body = { user_id: userId, candidates, timeout_ms: left, ...named };
            return rankingOf(await this.#connection.hedged({ method: "POST", path: "/rank", body }, end));
        });
    }
    /**
     * Rank, or give the order of `fallback` (by default that of the candidates) if there is no ranking in time. A wrong
     * call still throws: its repetition would hide the fault for ever.
     */
    async rankOr(fallback, userId, candidates, options = {}) {
        const requestId = options.request_id ?? newId();
        try {
            return await this.rank(userId, candidates, { ...options, request_id: requestId });
        }
        catch (error) {
            if (!(error instanceof FunnelrankError) || (error instanceof ProblemError && error.status < 500)) {
                throw error;
            }
            const ids = fallback ?? candidates.map((c) => (typeof c === "string" ? c : c.item_id));
            return fallbackRanking(ids, requestId, error.name);
        }
    }
    /** Write behaviours, at most 1,000 in one call. Those without an id or a time get one, so that a repetition counts once. */
    sendEvents(events) {
        const body = { events: events.map((event) => ({ event_id: newId(), timestamp: Date.now(), ...event })) };
        return this.#json({ method: "POST", path: "/events", body });
    }
    /** Say what came into view. `new` is null in the answer if the service cannot tell. */
    sendImpressions(impressions) {
        const named = impressions.map((one) => ({ impression_id: newId(), timestamp: Date.now(), ...one }));
        return this.#json({ method: "POST", path: "/impressions", body: { impressions: named } });
    }
    /** Write features of users: user id to feature values. */
    putUserFeatures(users) {
        const rows = Object.entries(users).map(([user_id, features]) => ({ user_id, features }));
        return this.#json({ method: "PUT", path: "/features/users", body: { users: rows }, operator: true });
    }
    /** Write features of items: item id to feature values. */
    putItemFeatures(items) {
        const rows = Object.entries(items).map(([item_id, features]) => ({ item_id, features }));
        return this.#json({ method: "PUT", path: "/features/items", body: { items: rows }, operator: true });
    }
    getFusion() {
        return this.#json({ method: "GET", path: "/fusion" });
    }
    putFusion(document) {
        return this.#change("PUT", "/fusion", document);
    }
    rollBackFusion(to = {}) {
        return this.#change("POST", "/fusion/rollback", to);
    }
    /** Rank by a chosen `version` (`name/version`), `profile` and `rules`; it is neither counted nor logged. */
    previewRanking(request) {
        return this.#json({ method: "POST", path: "/rank/preview", body: request, operator: true });
    }
    /** The effect of a fusion document on recent requests; nothing is changed. */
    previewFusion(document) {
        return this.#change("POST", "/fusion/preview", document);
    }
    getRules() {
        return this.#json({ method: "GET", path: "/rules" });
    }
    putRules(document) {
        return this.#change("PUT", "/rules", document);
    }
    rollBackRules(to = {}) {
        return this.#change("POST", "/rules/rollback", to);
    }
    /** The effect of a rules document on recent requests; nothing is changed. */
    previewRules(document) {
        return this.#change("POST", "/rules/preview", document);
    }
    /** Who may call the service, with the last use of every key; an operators' call. */
    getCallers() {
        return this.#json({ method: "GET", path: "/callers", operator: true });
    }
    getQuality() {
        return this.#json({ method: "GET", path: "/quality" });
    }
    getModels() {
        return this.#json({ method: "GET", path: "/models" });
    }
    /** A published version: its manifest, its places in the rollout, what the gate measured. */
    getModel(name, version) {
        return this.#json({ method: "GET", path: `/models/${name}/${version}` });
    }
    putRollout(document) {
        return this.#change("PUT", "/models/rollout", document);
    }
    rollBackModels(to = {}) {
        return this.#change("POST", "/models/rollback", to);
    }
    /** The rows and newest behaviours of a user, decoded. */
    getStoredUser(userId, behaviours = 50) {
        const path = `/store/users/${encodeURIComponent(userId)}?behaviours=${behaviours}`;
        return this.#json({ method: "GET", path, operator: true });
    }
    /** The rows of an item, decoded. */
    getStoredItem(itemId) {
        return this.#json({ method: "GET", path: `/store/items/${encodeURIComponent(itemId)}`, operator: true });
    }
    /** Traffic, latency, versions, store and alarms of one host, over the last seconds. */
    getStats(windowS = 300) {
        return this.#json({ method: "GET", path: `/stats?window_s=${windowS}` });
    }
    /** Whether the process answers. */
    isLive() {
        return this.#answers("/livez");
    }
    /** Whether it ranks. */
    isReady() {
        return this.#answers("/readyz");
    }
    /** All metrics in the text form of Prometheus. */
    getMetrics() {
        return this.#connection.sent({ method: "GET", path: "/metrics" }, performance.now() + this.#connection.options.timeoutMs);
    }
    async #answers(path) {
        try {
            await this.#connection.sent({ method: "GET", path }, performance.now() + this.#connection.options.timeoutMs);
            return true;
        }
        catch (error) {
            if (error instanceof FunnelrankError) {
                return false;
            }
            throw error;
        }
    }
    /** A change of what is live is not repeated: its first sending may have been carried out. */
    async #change(method, path, body) {
        const end = performance.now() + CHANGE_TIMEOUT_MS;
        return parsed(await this.#connection.sent({ method, path, body, operator: true }, end));
    }
    #json(call) {
        const end = performance.now() + this.#connection.options.timeoutMs;
        return this.#connection.repeated(end, async () => parsed(await this.#connection.sent(call, end)));
    }
}
/** An id of 32 hex digits. `crypto.randomUUID` is missing on pages without TLS. */
function newId() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
