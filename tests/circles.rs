//! No circle of imports between the modules of one crate.
//!
//! The sources are read as text: every path that begins with `crate::` or `super::` outside tests, comments and
//! strings is an arrow from its module to the one that defines the name. Names that a module re-exports with
//! `pub use` count as the module's that defines them. Imports between a module and those below it do not count: they
//! are one concept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Imports that still close a circle, as (crate, from, to): each waits for the names that it takes to get a module
/// of their own. A line whose import is gone is an error.
const EXCEPTIONS: [(&str, &str, &str); 3] = [
    // `Nvidia`, which library an error is about.
    ("cuda", "error", "library"),
    // `CarbonConfig`, one section of the configuration.
    ("meter", "books::carbon", "config"),
    // Writing beside a file and renaming, which a run directory does for others.
    ("runlog", "held", "run_dir"),
];

/// The folders of a crate's sources in order: each imports from itself, from those before it, and from the files
/// beside the folders.
const FOLDERS: [(&str, &[&str]); 2] = [
    ("meter", &["sensors", "readings", "windows", "sampling", "books", "export", "calibrate"]),
    ("report", &["words", "join", "text", "page", "compare", "estimate", "scaling"]),
];

/// The path of a module within its crate; the root is empty.
type Module = Vec<String>;

/// What the sources of one crate say.
#[derive(Default)]
struct Crate {
    sources: BTreeMap<Module, Vec<String>>,
    /// What `pub use` in a module calls by a name, as a path from the module.
    exports: BTreeMap<(Module, String), Module>,
}

#[test]
fn modules_of_a_crate_form_no_circle() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    let mut n_modules = 0;
    for entry in std::fs::read_dir(crates).unwrap() {
        let dir = entry.unwrap().path();
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let root =
            ["src/lib.rs", "src/main.rs"].map(|file| dir.join(file)).into_iter().find(|at| at.exists());
        let Some(root) = root else { continue };
        let krate = Crate::read(&root);
        n_modules += krate.sources.len();
        let mut arrows = krate.arrows();
        for (_, from, to) in EXCEPTIONS.iter().filter(|(of, ..)| *of == name) {
            let is_there = arrows.get_mut(&path(from)).is_some_and(|named| named.remove(&path(to)));
            assert!(
                is_there,
                "crates/{name}: {from} no longer imports {to}; remove the line from EXCEPTIONS"
            );
        }
        if let Some(circle) = circles(&arrows).first() {
            let shown: Vec<_> = circle.iter().map(|module| module.join("::")).collect();
            panic!(
                "crates/{name}: imports form a circle of {shown:?}; give what they share a module of its own"
            );
        }
    }
    assert!(n_modules > 100, "{n_modules} modules were read");
}

#[test]
fn folders_import_from_those_before_them_only() {
    for (name, folders) in FOLDERS {
        let krate =
            Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("crates").join(name).join("src/lib.rs"));
        let place =
            |module: &Module| folders.iter().position(|folder| module.first().is_some_and(|m| m == folder));
        let arrows = krate.arrows();
        for (idx, folder) in folders.iter().enumerate() {
            let is_there = arrows.keys().any(|module| place(module) == Some(idx));
            assert!(is_there, "crates/{name}/src has no folder {folder}; correct FOLDERS");
        }
        for (from, named) in &arrows {
            if let Some(to) = named.iter().find(|to| place(from).is_some() && place(to) > place(from)) {
                let (from, to) = (from.join("::"), to.join("::"));
                panic!("crates/{name}: {from} imports from {to}, whose folder comes later");
            }
        }
    }
}

#[test]
fn a_circle_is_found_through_braces_re_exports_and_paths_within_functions() {
    let mut krate = Crate::default();
    let mut add = |module: &str, source: &str| krate.add(&path(module), source);
    add("", "pub use a::One; mod a; mod b; mod c; mod d;");
    add("a", "use crate::b::{self, Two}; pub struct One;");
    add("b", "fn f() { crate::c::g(1) } // crate::d::h");
    add(
        "c",
        "use super::{One, x::Y}; const TEXT: &str = \"crate::d\"; #[cfg(test)] mod tests { use crate::d; }",
    );
    add("d", "use crate::a; mod e;");
    add("d::e", "use super::h;");
    let arrows = krate.arrows();
    assert_eq!(circles(&arrows), BTreeSet::from([["a", "b", "c"].map(path).into()]));
    assert_eq!(arrows[&path("d")], BTreeSet::from([path("a")]));
}

/// `a::b` as a path.
fn path(text: &str) -> Module {
    text.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut krate = Self::default();
        krate.read_module(root, root.parent().unwrap(), &[]);
        krate
    }

    /// Reads a module from `file`, and those that it declares from `dir`.
    fn read_module(&mut self, file: &Path, dir: &Path, module: &[String]) {
        self.add(module, &std::fs::read_to_string(file).unwrap());
        let tokens = self.sources[module].clone();
        for declared in tokens.windows(3).filter(|window| window[0] == "mod" && window[2] == ";") {
            let name = declared[1].trim_start_matches("r#");
            let candidates: [PathBuf; 2] = [dir.join(format!("{name}.rs")), dir.join(name).join("mod.rs")];
            let found = candidates.into_iter().find(|at| at.exists());
            let file = found.unwrap_or_else(|| panic!("no file of module {name} in {}", dir.display()));
            self.read_module(&file, &dir.join(name), &[module, &[name.to_owned()]].concat());
        }
    }

    fn add(&mut self, module: &[String], source: &str) {
        let tokens = without_tests(&tokens(source));
        for (at, _) in tokens.iter().enumerate().filter(|(_, token)| *token == "use") {
            let is_public = at > 0 && (tokens[at - 1] == "pub" || tokens[at - 1] == ")");
            for (names, alias) in tree(&tokens[at + 1..]).into_iter().filter(|_| is_public) {
                if let Some(name) = alias.or_else(|| names.last().cloned()) {
                    self.exports.insert((module.to_vec(), name), names);
                }
            }
        }
        self.sources.insert(module.to_vec(), tokens);
    }

    /// Which modules each module names.
    fn arrows(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let mut arrows = BTreeMap::<_, BTreeSet<_>>::new();
        for (module, tokens) in &self.sources {
            let named = arrows.entry(module.clone()).or_default();
            for at in 0..tokens.len() {
                let begins = tokens[at] == "crate" || tokens[at] == "super";
                if !begins
                    || tokens.get(at + 1).is_none_or(|next| next != "::")
                    || at > 0 && tokens[at - 1] == "::"
                {
                    continue;
                }
                let paths = tree(&tokens[at..]).into_iter();
                named.extend(paths.map(|(names, _)| self.resolve(module, &names, 0)));
            }
            named.retain(|to| !to.starts_with(module) && !module.starts_with(to));
        }
        arrows
    }

    /// The module that defines what `names` leads to from `module`.
    fn resolve(&self, module: &[String], names: &[String], depth: usize) -> Module {
        let mut at = module.to_vec();
        for (idx, name) in names.iter().enumerate() {
            let below = [&at[..], std::slice::from_ref(name)].concat();
            match name.as_str() {
                "crate" => at.clear(),
                "super" => at.truncate(at.len().saturating_sub(1)),
                "self" => {}
                _ if self.sources.contains_key(&below) => at = below,
                _ => {
                    let Some(export) = self.exports.get(&(at.clone(), name.clone())) else { break };
                    // A re-export of a re-export ends; one of itself, as `pub use x::x`, would not.
                    if depth < 8 && (export.first() != Some(name) || export.len() > 1) {
                        let whole = [&export[..], &names[idx + 1..]].concat();
                        return self.resolve(&at, &whole, depth + 1);
                    }
                    break;
                }
            }
        }
        at
    }
}

/// Identifiers, `::` and single marks of a source, without comments and the content of strings.
fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let (mut tokens, mut at) = (Vec::new(), 0);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while at < chars.len() {
        let rest = &chars[at..];
        let len = match rest {
            ['/', '/', ..] => rest.iter().take_while(|c| **c != '\n').count(),
            ['/', '*', ..] => 2 + rest.windows(2).skip(2).take_while(|pair| *pair != ['*', '/']).count() + 2,
            ['r', '"' | '#', ..] | ['b', 'r', '"' | '#', ..] if raw_string(rest).is_some() => {
                raw_string(rest).unwrap()
            }
            ['"', ..] => string(rest),
            ['\'', '\\', ..] => 3 + rest.iter().skip(3).take_while(|c| **c != '\'').count(),
            ['\'', _, '\'', ..] => 3,
            [':', ':', ..] => {
                tokens.push("::".to_owned());
                2
            }
            [first, ..] if is_word(*first) => {
                let word: String = rest.iter().take_while(|c| is_word(**c)).collect();
                tokens.push(word);
                rest.iter().take_while(|c| is_word(**c)).count()
            }
            [first, ..] => {
                if !first.is_whitespace() {
                    tokens.push(first.to_string());
                }
                1
            }
            [] => 1,
        };
        at += len.max(1);
    }
    tokens
}

/// Characters of a string at the beginning.
fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Characters of a raw string at the beginning, if there is one.
fn raw_string(rest: &[char]) -> Option<usize> {
    let start = rest.iter().position(|c| *c == 'r')? + 1;
    let hashes = rest[start..].iter().take_while(|c| **c == '#').count();
    if rest.get(start + hashes) != Some(&'"') {
        return None;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = start + hashes + 1;
    rest[body..].windows(end.len()).position(|window| window == end).map(|at| body + at + end.len())
}

/// Leaves out every item under `#[cfg(test)]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = tokens;
    while let Some(first) = rest.first() {
        let is_test = rest.len() > 7 && rest[..7].iter().eq(["#", "[", "cfg", "(", "test", ")", "]"]);
        if !is_test {
            kept.push(first.clone());
            rest = &rest[1..];
            continue;
        }
        let mut depth = 0usize;
        let end = rest.iter().skip(7).position(|token| {
            match token.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            depth == 0 && (token == "}" || token == ";")
        });
        rest = end.map_or(&[], |end| &rest[7 + end + 1..]);
    }
    kept
}

/// The paths of a use tree at the beginning, each with the name that `as` gives it.
fn tree(tokens: &[String]) -> Vec<(Module, Option<String>)> {
    let mut paths = Vec::new();
    walk(tokens, &[], &mut paths);
    paths
}

/// Adds the paths below `prefix`, and returns the tokens that were read.
fn walk(tokens: &[String], prefix: &[String], paths: &mut Vec<(Module, Option<String>)>) -> usize {
    let (mut names, mut at) = (prefix.to_vec(), 0);
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at += walk(&tokens[at..], &names, paths);
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            Some(name) if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                names.push(name.to_owned());
                at += 1;
            }
            // A mark that no path has: one token, so that a caller goes on.
            _ => return at.max(1),
        }
        if tokens.get(at).is_some_and(|token| token == "::") {
            at += 1;
            continue;
        }
        let alias = tokens.get(at).filter(|token| *token == "as").and_then(|_| tokens.get(at + 1)).cloned();
        at += if alias.is_some() { 2 } else { 0 };
        paths.push((names, alias));
        return at;
    }
}

/// Sets of modules that reach one another.
fn circles(arrows: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<BTreeSet<Module>> {
    let reach = |from: &Module| {
        let (mut reached, mut waiting) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(next) = waiting.pop() {
            for to in arrows.get(&next).into_iter().flatten() {
                if reached.insert(to.clone()) {
                    waiting.push(to.clone());
                }
            }
        }
        reached
    };
    let reached: BTreeMap<_, _> = arrows.keys().map(|module| (module, reach(module))).collect();
    let circle = |module: &Module| {
        let both = |other: &&Module| reached.get(other).is_some_and(|back| back.contains(module));
        reached[module].iter().filter(both).cloned().collect::<BTreeSet<_>>()
    };
    arrows.keys().map(circle).filter(|circle| !circle.is_empty()).collect()
}
