//! Items as tokens.

use std::path::PathBuf;

use wattle_data::task::{Completion, Items, encode_continuation, encode_prompt};
use wattle_data::{DataError, Task, Tokenizer};

/// Tasks, all of whose items are tokens that fit the model's context.
#[derive(Clone, Debug, Default)]
pub struct Exam {
    /// The tasks.
    pub tasks: Vec<ExamTask>,
    /// The model's context, in tokens.
    pub context: usize,
}

/// A task as tokens.
#[derive(Clone, Debug)]
pub struct ExamTask {
    /// The items as they were read.
    pub task: Task,
    /// Their tokens, in the same order.
    pub tokens: Vec<ItemTokens>,
    /// Items of which the context does not hold all that stands before the answer.
    pub n_truncated: u64,
}

/// An item as tokens.
#[derive(Clone, Debug)]
pub struct ItemTokens {
    /// What stands before the answer, at least one token; of a text to be continued, what the context holds of it.
    pub context: Vec<u32>,
    /// What may follow; none where the model says what does.
    pub continuations: Vec<Vec<u32>>,
}

impl Exam {
    /// The tasks in these files, for a model of this context.
    ///
    /// # Errors
    /// If a file cannot be read, a line is not an item, an item cannot be made tokens of, or an answer is longer than the
    /// context.
    pub fn read(paths: &[PathBuf], tokenizer: &Tokenizer, context: usize) -> Result<Self, DataError> {
        let tasks = Task::read_all(paths)?;
        let tasks = tasks.into_iter().map(|task| ExamTask::new(task, tokenizer, context));
        Ok(Self { tasks: tasks.collect::<Result<_, _>>()?, context })
    }

    /// Most tokens that a text of any item has in the model's view.
    pub fn room(&self) -> usize {
        self.tasks.iter().map(|task| task.room(self.context)).max().unwrap_or(1)
    }

    /// Items of all tasks.
    pub fn n_items(&self) -> usize {
        self.tasks.iter().map(|task| task.tokens.len()).sum()
    }

    /// Tokens that go through the model at most.
    pub fn n_tokens(&self) -> u64 {
        self.tasks.iter().map(|task| task.n_tokens(self.context)).sum()
    }
}

impl ExamTask {
    fn new(task: Task, tokenizer: &Tokenizer, context: usize) -> Result<Self, DataError> {
        let of_item = |number: usize, tokens: Result<ItemTokens, DataError>| {
            let wrong = |fault| DataError::Item { path: task.path.clone(), number, fault: Box::new(fault) };
            tokens.map_err(wrong)
        };
        let mut n_truncated = 0;
        let mut tokens = Vec::with_capacity(task.items.len());
        for idx in 0..task.items.len() {
            let read = match &task.items {
                Items::Choice(items) => {
                    let item = &items[idx];
                    continued(tokenizer, &item.prompt, &item.choices)
                }
                Items::Cloze(items) => {
                    let item = &items[idx];
                    continued(tokenizer, &item.prompt, std::slice::from_ref(&item.answer))
                }
                Items::Generate(items) => encode_prompt(tokenizer, &items[idx].prompt)
                    .map(|context| ItemTokens { context, continuations: Vec::new() }),
            };
            let fit = |mut item: ItemTokens| {
                let is_cut = match &task.items {
                    Items::Generate(items) => item.fit_prompt(&items[idx], context)?,
                    _ => item.is_truncated(context)?,
                };
                n_truncated += u64::from(is_cut);
                Ok(item)
            };
            tokens.push(of_item(idx + 1, read.and_then(fit))?);
        }
        Ok(Self { task, tokens, n_truncated })
    }

    /// Most tokens that the item's text will have, beyond its context.
    fn ahead(&self, idx: usize) -> usize {
        match &self.task.items {
            Items::Generate(items) => items[idx].max_tokens,
            _ => self.tokens[idx].continuations.iter().map(Vec::len).max().unwrap_or(0),
        }
    }

    fn room(&self, context: usize) -> usize {
        let of_item = |(idx, item): (usize, &ItemTokens)| item.context.len() + self.ahead(idx);
        self.tokens.iter().enumerate().map(of_item).max().unwrap_or(1).min(context)
    }

    fn n_tokens(&self, context: usize) -> u64 {
        let of_item = |(idx, item): (usize, &ItemTokens)| {
            let ahead = match item.continuations.as_slice() {
                [] => self.ahead(idx),
                continuations => continuations.iter().map(Vec::len).sum(),
            };
            (item.context.len().min(context) + ahead) as u64
        };
        self.tokens.iter().enumerate().map(of_item).sum()
    }
}

/// A context with what may follow it.
fn continued(tokenizer: &Tokenizer, prompt: &str, continuations: &[String]) -> Result<ItemTokens, DataError> {
    let mut item = ItemTokens { context: Vec::new(), continuations: Vec::with_capacity(continuations.len()) };
    for continuation in continuations {
        let read = encode_continuation(tokenizer, prompt, continuation)?;
        item.context = read.context;
        item.continuations.push(read.continuation);
    }
    Ok(item)
}

impl ItemTokens {
    /// Whether the context and a continuation are together longer than a model can look back on.
    fn is_truncated(&self, context: usize) -> Result<bool, DataError> {
        let longest = self.continuations.iter().map(Vec::len).max().unwrap_or(0);
        match longest <= context {
            true => Ok(self.context.len() + longest > context + 1),
            false => {
                let what = "an answer".to_owned();
                Err(DataError::ContinuationTooLong { what, got: longest, context })
            }
        }
    }

    /// Leaves the end of the prompt that leaves room for what will be said. Whether that is less than all of it.
    fn fit_prompt(&mut self, item: &Completion, context: usize) -> Result<bool, DataError> {
        if item.max_tokens >= context {
            let what = "\"max_tokens\"".to_owned();
            return Err(DataError::ContinuationTooLong { what, got: item.max_tokens, context });
        }
        let n_left_out = self.context.len().saturating_sub(context - item.max_tokens);
        self.context.drain(..n_left_out);
        Ok(n_left_out > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exam(line: &str, context: usize) -> Result<Exam, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("task.jsonl");
        std::fs::write(&path, line).unwrap();
        Exam::read(&[path], &Tokenizer::bytes(), context).map_err(|error| error.to_string())
    }

    #[test]
    fn what_does_not_fit_is_counted_or_refused() {
        let cloze = r#"{"kind":"cloze","prompt":"abcdef","answer":" gh"}"#;
        // Nine tokens, the last of which is not looked back on.
        assert_eq!(exam(cloze, 8).unwrap().tasks[0].n_truncated, 0);
        assert_eq!(exam(cloze, 7).unwrap().tasks[0].n_truncated, 1);
        assert_eq!((exam(cloze, 7).unwrap().room(), exam(cloze, 99).unwrap().room()), (7, 9));
        let error = exam(cloze, 2).unwrap_err();
        assert!(
            error.contains("item 1") && error.contains("3 tokens") && error.contains("context is 2"),
            "{error}"
        );
        let generate = r#"{"kind":"generate","prompt":"abcdef","answer":"g","max_tokens":3}"#;
        let exam_of = |context| exam(generate, context).unwrap();
        assert_eq!((exam_of(9).tasks[0].n_truncated, exam_of(9).tasks[0].tokens[0].context.len()), (0, 6));
        assert_eq!((exam_of(8).tasks[0].n_truncated, exam_of(8).tasks[0].tokens[0].context.len()), (1, 5));
        assert!(exam(generate, 3).unwrap_err().contains("\"max_tokens\" has 3 tokens"));
    }
}
