//! Suggestions for a path that is not a run directory.

use std::fs;
use std::path::{Path, PathBuf};

/// Names less similar than this are not suggested.
const ALIKE: f64 = 0.75;

/// Runs listed in a message at most.
const LISTED: usize = 3;

/// Runs beside `path` with similar names, most similar first, as paths to type.
pub fn nearest_runs(path: &Path) -> Vec<String> {
    let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else { return Vec::new() };
    let mut runs = runs(path.parent().unwrap_or(Path::new("")));
    runs.sort();
    most_alike(&name, runs).iter().map(|run| run.display().to_string()).collect()
}

/// The few of `runs` whose names are most similar to `name`, most similar first. Runs that are equally similar keep
/// their order; those that are not similar are left out.
pub fn most_alike(name: &str, runs: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let alike = |run: PathBuf| {
        let likeness = strsim::jaro_winkler(name, &run.file_name()?.to_string_lossy());
        (likeness >= ALIKE).then_some((likeness, run))
    };
    let mut runs: Vec<_> = runs.into_iter().filter_map(alike).collect();
    runs.sort_by(|a, b| b.0.total_cmp(&a.0));
    runs.into_iter().take(LISTED).map(|(_, run)| run).collect()
}

/// Runs in the directory `path`, by name.
pub fn runs_in(path: &Path) -> Vec<String> {
    let mut runs: Vec<_> = runs(path).iter().map(|run| run.display().to_string()).collect();
    runs.sort();
    runs
}

/// `it holds a, b, c and 4 more`, or how to make a run where there is none.
pub(crate) fn listed(lead: &str, runs: &[String]) -> String {
    match runs.len() {
        0 => "wattle train --out makes one".to_owned(),
        n @ ..=LISTED => format!("{lead} {}", runs[..n].join(", ")),
        n => format!("{lead} {} and {} more", runs[..LISTED].join(", "), n - LISTED),
    }
}

/// Whether a directory is a run's.
pub(crate) fn is_run(path: &Path) -> bool {
    path.join("manifest.json").is_file()
}

fn runs(dir: &Path) -> Vec<PathBuf> {
    let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let entries = fs::read_dir(here).into_iter().flatten().flatten();
    entries.filter(|entry| is_run(&entry.path())).map(|entry| dir.join(entry.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::run::Run;
    use crate::synthetic::SyntheticRun;

    #[test]
    fn a_run_that_is_not_there_is_told_with_the_nearest_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["small-20261123-150000", "small-20261123-160000", "other"] {
            SyntheticRun::small().write(&dir.path().join(name));
        }
        let said = |name: &str| Run::open(&dir.path().join(name)).unwrap_err().to_string();
        let typo = said("smal-20261123-15000");
        let first = dir.path().join("small-20261123-150000").display().to_string();
        assert!(typo.contains(&format!("did you mean {first}")) && !typo.contains("other"), "{typo}");
        let far = said("zzz");
        assert!(far.contains("no such run directory") && !far.contains("did you mean"), "{far}");
        assert!(said("no/such/parent").contains("no such run directory"));
    }

    #[test]
    fn a_folder_of_runs_is_told_which_runs_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "d"] {
            SyntheticRun::small().write(&dir.path().join(name));
        }
        let said = Run::open(dir.path()).unwrap_err().to_string();
        let first = dir.path().join("a").display().to_string();
        assert!(said.contains(&format!("it holds {first}")) && said.contains("and 1 more"), "{said}");
    }

    #[test]
    fn equally_similar_names_keep_their_order() {
        let runs = ["r/small-2", "r/small-1", "r/other", "r/small"].map(PathBuf::from);
        assert_eq!(most_alike("small", runs), ["r/small", "r/small-2", "r/small-1"].map(PathBuf::from));
    }
}
