//! Where a guest's serial port leads, and where QMP is spoken.

use super::suggest::hint;
use super::value::from_text;
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;

/// The longest path that fits into a socket's address with the zero at its end (unix(7)).
const LONGEST: usize = 107;

/// A place that is none.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EndpointError {
    /// It is something else.
    #[error("{0:?} is no place for a socket; write unix:PATH")]
    Form(String),
    /// Its path does not fit.
    #[error("{path} has {len} bytes, and the address of a socket has room for {LONGEST}; choose a shorter path", len = path.len())]
    TooLong {
        /// The path.
        path: String,
    },
}

/// A unix socket to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Endpoint(PathBuf);

impl Endpoint {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let wrong = || EndpointError::Form(text.to_owned());
        let mut words = text.strip_prefix("unix:").ok_or_else(wrong)?.split(',');
        let path = words.next().filter(|path| !path.is_empty()).ok_or_else(wrong)?;
        // As on QEMU's command line; there it says that it listens and does not wait, and so it is here.
        if words.any(|word| !matches!(word, "server" | "server=on" | "nowait" | "wait=off")) {
            return Err(wrong());
        }
        if path.len() > LONGEST {
            return Err(EndpointError::TooLong { path: path.to_owned() });
        }
        Ok(Self(path.into()))
    }
}

from_text!(Endpoint);

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix:{}", self.0.display())
    }
}

/// A console that is none.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConsoleError {
    /// It is something else.
    #[error("{written:?} is no console{hint}; write stdio, pty, file:PATH, unix:PATH or none")]
    Form {
        /// What was written.
        written: String,
        /// What was probably meant.
        hint: String,
    },
    /// Its socket.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

/// Where a guest's first serial port leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Console {
    /// This process's terminal.
    Stdio,
    /// A new pseudo-terminal.
    Pty,
    /// A file, for output alone.
    File(PathBuf),
    /// A socket, for one client at a time.
    Unix(Endpoint),
    /// Nowhere.
    None,
}

impl FromStr for Console {
    type Err = ConsoleError;
    fn from_str(text: &str) -> Result<Self, ConsoleError> {
        match text {
            "stdio" => Ok(Self::Stdio),
            "pty" => Ok(Self::Pty),
            "none" => Ok(Self::None),
            _ if text.starts_with("unix:") => Ok(Self::Unix(text.parse()?)),
            _ => match text.strip_prefix("file:").filter(|path| !path.is_empty()) {
                Some(path) => Ok(Self::File(path.into())),
                None => Err(ConsoleError::Form {
                    hint: hint(text, ["stdio", "pty", "none", "file:PATH", "unix:PATH"]),
                    written: text.to_owned(),
                }),
            },
        }
    }
}

from_text!(Console);

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::Pty => f.write_str("pty"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Unix(endpoint) => endpoint.fmt(f),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_shown() {
        for text in ["stdio", "pty", "none", "file:/var/log/web", "unix:/run/web.console"] {
            assert_eq!(text.parse::<Console>().unwrap().to_string(), text);
        }
        for text in ["unix:/run/a,server", "unix:/run/a,server=on,wait=off", "unix:/run/a,server,nowait"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().path(), Path::new("/run/a"), "{text}");
        }
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (text, says) in [
            ("stdoi", "did you mean stdio?; write stdio, pty, file:PATH"),
            ("file:", "\"file:\" is no console"),
            ("", "\"\" is no console; write"),
            ("unix:", "no place for a socket; write unix:PATH"),
            ("unix:/a,servre", "no place for a socket"),
        ] {
            let error = text.parse::<Console>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        let error = long.parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains("has 108 bytes"), "{error}");
    }
}
