/** The path of the model, fetched if need be; throws when that is not possible. */
export function fetchSmolLM2(): string;
