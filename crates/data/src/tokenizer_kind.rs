//! How text becomes tokens.

wattle_settings::choices! {
    /// How text becomes tokens.
    pub enum TokenizerKind (default Bpe) {
        /// One token a byte: 256 entries.
        Bytes = "bytes",
        /// One token a character, for every character of the text.
        Chars = "chars",
        /// Byte-level byte-pair encoding, trained on the training split.
        Bpe = "bpe",
        /// A `tokenizer.json` made elsewhere.
        File = "file",
    }
}
