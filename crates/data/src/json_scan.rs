//! Where values end in a stream of JSON, without parsing it: the elements of an array, or values one after another.

/// Looks for values byte by byte. It counts brackets and knows strings; whether a value is JSON is found when it
/// is parsed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scanner {
    /// Brackets around the values: 1 within an array of records, else 0.
    base: u32,
    depth: u32,
    state: State,
    /// Whether something but white space was seen.
    has_begun: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between values.
    #[default]
    Outside,
    /// In an object or array.
    Inside,
    /// In a number, a literal, or anything else that is neither string nor bracket.
    Scalar,
    String {
        is_escaped: bool,
        is_value: bool,
    },
}

/// What a byte is to the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing to a value: white space, a comma, the brackets of the array.
    Between,
    /// A value's first byte.
    First,
    /// A later byte of a value.
    Within,
    /// A value's last byte.
    Last,
    /// A value that is one byte.
    Only,
}

impl Scanner {
    /// Takes the next byte; `next` is the one after it, if there is one.
    pub(crate) fn step(&mut self, byte: u8, next: Option<u8>) -> Step {
        match self.state {
            State::Outside => self.outside(byte, next),
            State::Scalar => self.scalar(Step::Within, next),
            State::String { is_escaped, is_value } => self.string(byte, is_escaped, is_value),
            State::Inside => self.inside(byte),
        }
    }

    fn outside(&mut self, byte: u8, next: Option<u8>) -> Step {
        if byte.is_ascii_whitespace() || byte == b',' {
            return Step::Between;
        }
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        match byte {
            b'[' if is_first => {
                (self.base, self.depth) = (1, 1);
                Step::Between
            }
            b']' if self.base == 1 => {
                (self.base, self.depth) = (0, 0);
                Step::Between
            }
            b'{' | b'[' => {
                self.depth += 1;
                self.state = State::Inside;
                Step::First
            }
            b'"' => {
                self.state = State::String { is_escaped: false, is_value: true };
                Step::First
            }
            _ => {
                self.state = State::Scalar;
                self.scalar(Step::First, next)
            }
        }
    }

    /// A scalar ends where a delimiter follows.
    fn scalar(&mut self, step: Step, next: Option<u8>) -> Step {
        let ends = next.is_none_or(|next| next.is_ascii_whitespace() || b",[]{}\"".contains(&next));
        if !ends {
            return step;
        }
        self.state = State::Outside;
        if step == Step::First { Step::Only } else { Step::Last }
    }

    fn string(&mut self, byte: u8, is_escaped: bool, is_value: bool) -> Step {
        let ends = byte == b'"' && !is_escaped;
        self.state = match (ends, is_value) {
            (false, _) => State::String { is_escaped: byte == b'\\' && !is_escaped, is_value },
            (true, true) => State::Outside,
            (true, false) => State::Inside,
        };
        if ends && is_value { Step::Last } else { Step::Within }
    }

    fn inside(&mut self, byte: u8) -> Step {
        match byte {
            b'"' => self.state = State::String { is_escaped: false, is_value: false },
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        if self.depth > self.base {
            return Step::Within;
        }
        self.state = State::Outside;
        Step::Last
    }
}

/// The values of `bytes`, of which `scanner` stands before the first; one that does not end is the last.
pub(crate) fn values(bytes: &[u8], mut scanner: Scanner) -> Vec<&[u8]> {
    let (mut values, mut first) = (Vec::new(), None);
    for (at, &byte) in bytes.iter().enumerate() {
        let step = scanner.step(byte, bytes.get(at + 1).copied());
        if matches!(step, Step::First | Step::Only) {
            first = Some(at);
        }
        if matches!(step, Step::Last | Step::Only)
            && let Some(first) = first.take()
        {
            values.push(&bytes[first..=at]);
        }
    }
    values.extend(first.map(|first| &bytes[first..]));
    values
}

/// Where whole values end in a buffer that grows at its end and is taken from its beginning.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    scanner: Scanner,
    scanned: usize,
    /// Before the first byte of the buffer.
    at_start: Scanner,
    /// The end of the last value that is whole, how many there are up to it, and what follows it.
    last: Option<(usize, u64, Scanner)>,
}

impl Ends {
    /// The end of the last value of `buffer` that is whole.
    pub(crate) fn last_in(&mut self, buffer: &[u8], at_end: bool) -> Option<usize> {
        // Whether a number ends is told by what follows it.
        let known = if at_end { buffer.len() } else { buffer.len().saturating_sub(1) };
        for at in self.scanned..known {
            let step = self.scanner.step(buffer[at], buffer.get(at + 1).copied());
            if matches!(step, Step::Last | Step::Only) {
                let before = self.last.map_or(0, |(_, count, _)| count);
                self.last = Some((at + 1, before + 1, self.scanner));
            }
        }
        self.scanned = self.scanned.max(known);
        self.last.map(|(end, _, _)| end)
    }

    /// Takes what is up to the end that was found: how many values it is, and the scanner before the first.
    pub(crate) fn take(&mut self) -> (u64, Scanner) {
        let before = self.at_start;
        let Some((end, count, after)) = self.last.take() else { return (0, before) };
        self.scanned -= end;
        self.at_start = after;
        (count, before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(base: u32) -> Scanner {
        Scanner { base, depth: base, state: State::Outside, has_begun: true }
    }

    #[test]
    fn elements_and_values_one_after_another_are_found() {
        let of = |text: &'static str, base| -> Vec<&str> {
            values(text.as_bytes(), within(base))
                .into_iter()
                .map(|value| str::from_utf8(value).unwrap())
                .collect()
        };
        let inner = r#" {"a": "}\"]", "b": [1, {"c": 2}]} , "x\\" ,null, 12 ,[3] ]"#;
        let expected = [r#"{"a": "}\"]", "b": [1, {"c": 2}]}"#, r#""x\\""#, "null", "12", "[3]"];
        assert_eq!(of(inner, 1), expected);
        assert_eq!(of("{\"a\":1}\n{\"b\":2} {\"c\":3}{}", 0), ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}", "{}"]);
        assert_eq!(of("{\"a\": 1}, {\"b\": \"open", 1), ["{\"a\": 1}", "{\"b\": \"open"]);
        assert_eq!(of("  ", 1), [""; 0]);
        assert_eq!(of("{} ] trailing", 1), ["{}", "trailing"]);
        assert_eq!(values(b" [{}, 1]", Scanner::default()), [&b"{}"[..], b"1"]);
    }
}
