//! Items of a task.

/// The items of a task, all of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Items {
    /// Multiple choice, by log-likelihood.
    Choice(Vec<Choice>),
    /// The end of a text, by log-likelihood and by whether it is what greedy decoding says.
    Cloze(Vec<Cloze>),
    /// Greedy text, held against an answer.
    Generate(Vec<Completion>),
}

/// A prompt with several continuations, one of which is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// What stands before each choice.
    pub prompt: String,
    /// The continuations.
    pub choices: Vec<String>,
    /// Which of them is right, counted from 0.
    pub answer: usize,
}

/// A prompt and its continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Cloze {
    /// What stands before the answer.
    pub prompt: String,
    /// What follows.
    pub answer: String,
}

/// A prompt, and what a model should say after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// What stands before the answer.
    pub prompt: String,
    /// Texts each of which is right.
    pub answers: Vec<String>,
    /// Texts before which what is said ends.
    pub stop: Vec<String>,
    /// Most tokens that are said.
    pub max_tokens: usize,
    /// What does not count in the comparison.
    pub ignore: Ignore,
}

/// What does not count where a text is compared with an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignore {
    /// Upper and lower case.
    pub case: bool,
    /// ASCII punctuation.
    pub punctuation: bool,
    /// ASCII digits.
    pub numbers: bool,
    /// White space at both ends.
    pub whitespace: bool,
}

impl Items {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Choice(items) => items.len(),
            Self::Cloze(items) => items.len(),
            Self::Generate(items) => items.len(),
        }
    }

    /// Whether it has no items. A task that was read has at least one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kind, as a file names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Choice(_) => "choice",
            Self::Cloze(_) => "cloze",
            Self::Generate(_) => "generate",
        }
    }
}

impl Completion {
    /// What `said` is up to the first text that stops it. Each stop applies to what the ones before it left.
    pub fn until_stop<'t>(&self, said: &'t str) -> &'t str {
        self.stop.iter().fold(said, |said, stop| said.find(stop.as_str()).map_or(said, |end| &said[..end]))
    }

    /// Whether `said`, up to the first stop, is one of the answers.
    pub fn is_right(&self, said: &str) -> bool {
        let said = self.ignore.apply(self.until_stop(said));
        self.answers.iter().any(|answer| self.ignore.apply(answer) == said)
    }
}

impl Ignore {
    /// `text` without what does not count: case first, then punctuation, then numbers, then white space.
    pub fn apply(self, text: &str) -> String {
        let text = if self.case { text.to_lowercase() } else { text.to_owned() };
        let is_left_out =
            |c: char| (self.punctuation && c.is_ascii_punctuation()) || (self.numbers && c.is_ascii_digit());
        let text: String = text.chars().filter(|&c| !is_left_out(c)).collect();
        if self.whitespace { text.trim().to_owned() } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(ignore: Ignore, stop: &[&str]) -> Completion {
        Completion {
            prompt: String::new(),
            answers: vec!["Ten, maybe 12".to_owned(), "ten".to_owned()],
            stop: stop.iter().map(|&stop| stop.to_owned()).collect(),
            max_tokens: 8,
            ignore,
        }
    }

    #[test]
    fn what_does_not_count_is_left_out_of_both() {
        let plain = Ignore::default();
        assert!(completion(plain, &[]).is_right("ten") && !completion(plain, &[]).is_right(" ten"));
        assert!(completion(Ignore { whitespace: true, ..plain }, &[]).is_right(" ten\n"));
        assert!(completion(Ignore { case: true, ..plain }, &[]).is_right("TEN, Maybe 12"));
        assert!(completion(Ignore { punctuation: true, ..plain }, &[]).is_right("Ten! maybe 12."));
        assert!(completion(Ignore { numbers: true, ..plain }, &[]).is_right("Ten, maybe 7"));
        assert!(!completion(Ignore { numbers: true, ..plain }, &[]).is_right("Ten maybe 7"));
    }

    #[test]
    fn what_is_said_ends_before_a_stop() {
        let item = completion(Ignore::default(), &["\n", "e"]);
        assert_eq!(item.until_stop("ten\nand more"), "t");
        assert!(completion(Ignore::default(), &["\n"]).is_right("ten\nand more"));
    }
}
