//! `key=value,key,key=value`: how the command line says what has several parts.

use super::suggest::hint;
use thiserror::Error;

/// Parts that make no sense together.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OptionError {
    /// A key that is not known.
    #[error("{key:?} is no part of {of}{hint}; write {form}")]
    Unknown {
        /// What was written.
        key: String,
        /// In what.
        of: &'static str,
        /// What was probably meant.
        hint: String,
        /// How it is written.
        form: &'static str,
    },
    /// A key without its value.
    #[error("{key} needs a value; write {form}")]
    NoValue {
        /// The key.
        key: &'static str,
        /// How it is written.
        form: &'static str,
    },
    /// A key that is said twice.
    #[error("{key} is said twice; say it once")]
    Twice {
        /// The key.
        key: &'static str,
    },
    /// A key that has to be there.
    #[error("{of} needs {key}; write {form}")]
    Missing {
        /// The key.
        key: &'static str,
        /// Of what.
        of: &'static str,
        /// How it is written.
        form: &'static str,
    },
}

/// What the parts of something are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grammar {
    /// What it is: `--disk`.
    pub(super) of: &'static str,
    /// How it is written.
    pub(super) form: &'static str,
    /// Its keys, and for those that can stand alone what that means.
    pub(super) keys: &'static [(&'static str, Option<&'static str>)],
}

impl Grammar {
    /// Takes a text apart. Two commas are one comma that belongs to a value, as QEMU has it.
    pub(super) fn parse(self, text: &str) -> Result<Vec<(&'static str, String)>, OptionError> {
        let mut said: Vec<(&'static str, String)> = Vec::new();
        for part in split(text) {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (part.as_str(), None),
            };
            let Some(&(key, alone)) = self.keys.iter().find(|(known, _)| *known == key) else {
                let hint = hint(key, self.keys.iter().map(|(known, _)| *known));
                return Err(OptionError::Unknown { key: key.to_owned(), of: self.of, hint, form: self.form });
            };
            if said.iter().any(|(other, _)| *other == key) {
                return Err(OptionError::Twice { key });
            }
            let value = value.filter(|value| !value.is_empty()).or(alone.filter(|_| value.is_none()));
            let value = value.ok_or(OptionError::NoValue { key, form: self.form })?;
            said.push((key, value.to_owned()));
        }
        Ok(said)
    }

    /// A key that has to be there.
    pub(super) fn missing(self, key: &'static str) -> OptionError {
        OptionError::Missing { key, of: self.of, form: self.form }
    }
}

/// At single commas; a double one is a comma.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(letter);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GRAMMAR: Grammar = Grammar {
        of: "--thing",
        form: "--thing path=FILE[,flag][,size=N]",
        keys: &[("path", None), ("flag", Some("on")), ("size", None)],
    };

    #[test]
    fn parts_are_told_apart() {
        let said = GRAMMAR.parse("path=a,,b=c,flag,size=2").unwrap();
        assert_eq!(said, [("path", "a,b=c".into()), ("flag", "on".into()), ("size", "2".into())]);
        assert_eq!(GRAMMAR.parse("flag=off").unwrap(), [("flag", "off".into())]);
    }

    #[test]
    fn mistakes_are_met_with_the_right_form() {
        for (text, says) in [
            ("pathh=x", "\"pathh\" is no part of --thing; did you mean path?; write --thing path=FILE"),
            ("", "\"\" is no part of --thing"),
            ("path=x,", "\"\" is no part"),
            ("path", "path needs a value"),
            ("path=", "path needs a value"),
            ("flag=", "flag needs a value"),
            ("flag,flag", "flag is said twice"),
        ] {
            let error = GRAMMAR.parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_value_can_be_written(value in "\\PC+") {
            let text = format!("flag,path={}", value.replace(',', ",,"));
            prop_assert_eq!(GRAMMAR.parse(&text).unwrap(), [("flag", "on".to_owned()), ("path", value)]);
        }
    }
}
