/** Text to tokens and back, without a model. */

import type { ApplyChatTemplateOptions, ChatMessage } from "./chat.js";
import { templateRequest } from "./chat-json.js";
import { type Native, type NativeTokenizer, native } from "./native.js";
import { type ModelOverrides, readOverrides } from "./overrides.js";
import { permittedModel } from "./permission.js";
import { cancellable, promised } from "./promised.js";
import { checkDetokenize, checkTokenize, type DetokenizeOptions, type TokenizeOptions } from "./readings.js";
import { OptionReader, pathOf, textOf, tokenIds } from "./validate.js";

/** The tokens of a text. */
export interface EncodedText {
  readonly tokenIds: Uint32Array;
  /**
   * Characters that the vocabulary cannot say. Each became the unknown token, or was left out where there is none.
   */
  readonly unknownCharacters: number;
}

/** The tokens of a vocabulary that mean something to a model. */
export interface SpecialTokens {
  /** Begins a text. */
  readonly bos?: number;
  /** Ends a text. */
  readonly eos?: number;
  /** Ends a turn of a conversation. */
  readonly eot?: number;
  /** Stands for what the vocabulary cannot say. */
  readonly unknown?: number;
  /** Fills a batch. */
  readonly padding?: number;
  /** All that end a generation. */
  readonly ends: readonly number[];
}

/**
 * The tokenizer of a model of any architecture, without the model: of a GGUF file, also one that holds a vocabulary alone, of a
 * `tokenizer.json`, or of the folder that holds one.
 *
 * @example
 * const tokenizer = await Tokenizer.load("model.gguf");
 * const { tokenIds } = await tokenizer.encode("Once upon a time");
 * console.log(tokenIds.length, await tokenizer.pieces(tokenIds));
 */
export class Tokenizer {
  readonly #native: NativeTokenizer;
  /** The number of token ids. */
  readonly vocabularySize: number;
  /** Tokens that mean something to a model. */
  readonly specialTokens: SpecialTokens;
  /** The source of the model's chat template, if it has one. */
  readonly chatTemplate: string | undefined;
  /** What is probably wrong with the files, each in a sentence. */
  readonly warnings: readonly string[];

  private constructor(tokenizer: NativeTokenizer) {
    this.#native = tokenizer;
    const { bosToken, eosToken, eotToken, unknownToken, paddingToken, ...info } = tokenizer.info();
    this.vocabularySize = info.vocabularySize;
    this.chatTemplate = info.chatTemplate;
    this.warnings = info.warnings;
    this.specialTokens = {
      ...(bosToken !== undefined && { bos: bosToken }),
      ...(eosToken !== undefined && { eos: eosToken }),
      ...(eotToken !== undefined && { eot: eotToken }),
      ...(unknownToken !== undefined && { unknown: unknownToken }),
      ...(paddingToken !== undefined && { padding: paddingToken }),
      ends: info.endTokens,
    };
  }

  /**
   * Reads a tokenizer. Of a GGUF file the header alone is read.
   *
   * @throws {@link ModelFileError} when the file is not there, malformed or of a kind that is not supported.
   */
  static async load(path: string | URL, options?: ModelOverrides): Promise<Tokenizer> {
    const file = permittedModel(pathOf("path", path));
    const read = new OptionReader(options, "options");
    const overrides = readOverrides(read);
    read.done();
    return new Tokenizer(await promised<NativeTokenizer>((done) => native().loadTokenizer(file, overrides, done)));
  }

  /** The tokens of a text. A long text does not hold up others. */
  async encode(text: string, options?: TokenizeOptions): Promise<EncodedText> {
    const input = textOf("text", text);
    const { addSpecial, parseSpecial, signal } = checkTokenize(options);
    return cancellable<Native.EncodedText>(signal, (done) =>
      this.#native.encode(input, addSpecial, parseSpecial, done),
    );
  }

  /**
   * The text of some tokens. Bytes that are not whole characters become U+FFFD.
   *
   * @throws {@link InvalidArgumentError} for an id that is not in the vocabulary.
   */
  async decode(tokens: readonly number[] | Uint32Array, options?: DetokenizeOptions): Promise<string> {
    const ids = tokenIds("tokens", tokens);
    const { skipSpecial } = checkDetokenize(options);
    return promised((done) => this.#native.decode(ids, skipSpecial, done));
  }

  /** The text of each token by itself, special ones included. */
  async pieces(tokens: readonly number[] | Uint32Array): Promise<string[]> {
    const ids = tokenIds("tokens", tokens);
    return promised((done) => this.#native.pieces(ids, done));
  }

  /**
   * What the model's chat template makes of these messages.
   *
   * @throws {@link RyzansteinError} with the code `INVALID_TEMPLATE` when the files have no template, or one that does not parse.
   */
  async applyChatTemplate(messages: readonly ChatMessage[], options?: ApplyChatTemplateOptions): Promise<string> {
    const { input, signal } = await templateRequest(messages, options);
    return cancellable(signal, (done) => this.#native.applyChatTemplate(input, done));
  }

  /** The id of a token by the text that the file has for it, such as `<|im_start|>` or `Ġthe`. */
  tokenId(text: string): number | undefined {
    return this.#native.tokenId(textOf("text", text)) ?? undefined;
  }
}
