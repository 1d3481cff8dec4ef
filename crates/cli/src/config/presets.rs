//! Ready configurations.

use clap::ValueEnum;

/// A configuration that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Tales from the embedded grammar: a first run of some three minutes on two processor cores.
    Default,
    /// nanoGPT's documented CPU run on a text by characters: input.txt here, or what --set data.input names.
    ShakespeareChar,
    /// GPT-2's smallest size on your own text; wants a GPU.
    #[value(name = "gpt2-124m")]
    Gpt2Small,
    /// The GPT-2 layout at the sizes of the article that this project grew from.
    Article,
}

impl Preset {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::ShakespeareChar => "shakespeare-char",
            Self::Gpt2Small => "gpt2-124m",
            Self::Article => "article",
        }
    }

    /// Its TOML.
    pub fn toml(self) -> &'static str {
        match self {
            Self::Default => include_str!("../presets/default.toml"),
            Self::ShakespeareChar => include_str!("../presets/shakespeare-char.toml"),
            Self::Gpt2Small => include_str!("../presets/gpt2-124m.toml"),
            Self::Article => include_str!("../presets/article.toml"),
        }
    }
}
