//! How tensors that were read differ from those of a model, and long lists of names in messages.

use std::collections::BTreeMap;

/// As many names as a list shows in full.
const MOST_NAMES: usize = 4;
/// How many names a longer list shows.
const N_SHOWN: usize = 3;

/// What is wrong with tensors that were read.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    /// Names of those that are not there.
    pub(crate) missing: Vec<String>,
    /// A clause each of those with another shape or type.
    pub(crate) wrong: Vec<String>,
    /// Names of those that the model does not have.
    pub(crate) extra: Vec<String>,
}

impl Differences {
    /// A clause each, or, where there are many of a kind, a few of them and how many more there are.
    pub(crate) fn faults(self) -> Vec<String> {
        let Self { missing, wrong, extra } = self;
        let mut faults = clauses(&missing, "is missing", "are missing");
        match wrong.len() {
            0..=MOST_NAMES => faults.extend(wrong),
            n => {
                faults.extend(wrong.into_iter().take(N_SHOWN));
                faults.push(format!("{} more have another shape or type", n - N_SHOWN));
            }
        }
        faults.extend(clauses(&extra, "is not of this model", "are not of this model"));
        faults
    }
}

/// How the tensors in `got` differ from the `expected` ones, both by name and shape. `other` is what else is wrong
/// with a tensor of the right shape.
pub(crate) fn differences<'a, N: Into<String> + AsRef<str>, D: AsRef<[usize]>>(
    expected: impl IntoIterator<Item = (N, D)>,
    got: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    other: impl Fn(&str) -> Option<String>,
) -> Differences {
    let mut got: BTreeMap<&str, &[usize]> = got.into_iter().collect();
    let mut differences = Differences::default();
    for (name, dims) in expected {
        match got.remove(name.as_ref()) {
            None => differences.missing.push(name.into()),
            Some(there) => {
                let fault = shape_fault(name.as_ref(), there, dims.as_ref()).or_else(|| other(name.as_ref()));
                differences.wrong.extend(fault);
            }
        }
    }
    differences.extra = got.into_keys().map(str::to_owned).collect();
    differences
}

/// What is wrong with a tensor of shape `got`; `None` if that is what is `expected`.
pub(crate) fn shape_fault(name: &str, got: &[usize], expected: &[usize]) -> Option<String> {
    (got != expected).then(|| format!("{name} has shape {got:?}, expected {expected:?}"))
}

fn clauses(names: &[String], one: &str, many: &str) -> Vec<String> {
    match names.len() {
        0..=MOST_NAMES => names.iter().map(|name| format!("{name} {one}")).collect(),
        _ => vec![format!("{} {many}", abridged(names))],
    }
}

/// Names for a message: all of a few, else the first ones and how many more there are, as in "a, b, c and 145 more".
pub fn abridged<T: AsRef<str>>(names: &[T]) -> String {
    let n_shown = if names.len() > MOST_NAMES { N_SHOWN } else { names.len() };
    let shown: Vec<&str> = names[..n_shown].iter().map(AsRef::as_ref).collect();
    match names.len() - n_shown {
        0 => shown.join(", "),
        n_more => format!("{} and {n_more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("t{i}")).collect()
    }

    #[test]
    fn a_long_list_is_cut_and_says_how_many_more_there_are() {
        assert_eq!(abridged(&names(4)), "t0, t1, t2, t3");
        assert_eq!(abridged(&names(148)), "t0, t1, t2 and 145 more");
        assert_eq!(abridged::<String>(&[]), "");
    }

    #[test]
    fn each_kind_of_difference_is_named_however_many_there_are_of_another() {
        let few = Differences { missing: names(1), extra: names(2), ..Differences::default() };
        assert_eq!(few.faults(), ["t0 is missing", "t0 is not of this model", "t1 is not of this model"]);
        let many = Differences { missing: names(9), wrong: names(5), extra: names(7) };
        assert_eq!(
            many.faults(),
            [
                "t0, t1, t2 and 6 more are missing",
                "t0",
                "t1",
                "t2",
                "2 more have another shape or type",
                "t0, t1, t2 and 4 more are not of this model",
            ]
        );
    }
}
