/** Requests and answers of the API, with the names that it has in JSON. */
export {};
