/** The bytes of a GGUF file (version 2 or 3, of the usual alignment) whose chat template is `template`. */
export function withTemplate(file: Buffer, template: string): Buffer;
