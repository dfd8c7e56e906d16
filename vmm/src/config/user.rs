//! Whom a process becomes once everything is open: `USER`, `USER:GROUP`, by name or by number.

use serde::Deserialize;
use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;
use thiserror::Error;

/// A user that is none.
#[derive(Debug, Error)]
pub enum UserError {
    /// It is not written as one.
    #[error("{0:?} is no user; write USER or USER:GROUP, by name or by number")]
    Form(String),
    /// Nobody is called so.
    #[error("no {what} is called {name:?} in {file}; make one (useradd --system {name}), or write a number")]
    Unknown {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
        /// Where it was looked for.
        file: &'static str,
    },
    /// A number alone says nothing of the group.
    #[error("user {0} is not in {PASSWD}, so its group is not known; write {0}:GROUP")]
    NoGroup(u32),
    /// The list cannot be read.
    #[error("cannot read {file}: {error}; write numbers: USER:GROUP")]
    Read {
        /// Which.
        file: &'static str,
        /// Why not.
        error: io::Error,
    },
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A user and a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// The user's number.
    pub const fn uid(&self) -> u32 {
        self.uid
    }

    /// The group's number.
    pub const fn gid(&self) -> u32 {
        self.gid
    }

    /// Finds it in these lists (passwd(5), group(5)).
    fn find(text: &str, passwd: &str, group: &str) -> Result<Self, UserError> {
        let form = || UserError::Form(text.to_owned());
        let (user, of) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        if user.is_empty() || of.is_some_and(|group| group.is_empty() || group.contains(':')) {
            return Err(form());
        }
        let known = lines(passwd).find(|line| line[0] == user || line[2] == user);
        let field = |line: &[&str], at: usize| line.get(at)?.parse().ok().filter(|&id| id != u32::MAX);
        let uid = known.as_ref().and_then(|line| field(line, 2)).or_else(|| number(user));
        let unknown = |what, name: &str, file| UserError::Unknown { what, name: name.to_owned(), file };
        let uid = uid.ok_or_else(|| unknown("user", user, PASSWD))?;
        let gid = match of {
            None => known.and_then(|line| field(&line, 3)).ok_or(UserError::NoGroup(uid))?,
            Some(name) => {
                let known = lines(group).find(|line| line[0] == name);
                let gid = known.and_then(|line| field(&line, 2)).or_else(|| number(name));
                gid.ok_or_else(|| unknown("group", name, GROUP))?
            }
        };
        Ok(Self { uid, gid })
    }
}

/// The records of such a list, in fields; what has too few is none.
fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4)
}

/// A number that can be one: the highest means "leave it" to the kernel.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?.filter(|&id| id != u32::MAX)
}

impl FromStr for User {
    type Err = UserError;
    fn from_str(text: &str) -> Result<Self, UserError> {
        let read = |file| {
            fs::read(file)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .map_err(|error| UserError::Read { file, error })
        };
        let both =
            text.split_once(':').is_some_and(|(user, group)| number(user).and(number(group)).is_some());
        // Numbers alone need no lists.
        let (passwd, group) =
            if both { (String::new(), String::new()) } else { (read(PASSWD)?, read(GROUP)?) };
        Self::find(text, &passwd, &group)
    }
}

super::value::from_text!(User);

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\ncolo:x:990:991::/:/bin/false\n";
    const GROUPS: &str = "root:x:0:\nkvm:x:104:colo\n";

    #[test]
    fn names_and_numbers_are_found() {
        for (text, uid, gid) in [
            ("colo", 990, 991),
            ("990", 990, 991),
            ("colo:kvm", 990, 104),
            ("colo:7", 990, 7),
            ("5:6", 5, 6),
            ("0", 0, 0),
        ] {
            assert_eq!(User::find(text, USERS, GROUPS).unwrap(), User { uid, gid }, "{text}");
        }
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (text, says) in [
            ("", "no user; write USER"),
            ("a:b:c", "no user; write USER"),
            ("colo:", "no user; write USER"),
            ("nobody-here", "no user is called \"nobody-here\" in /etc/passwd; make one"),
            ("colo:none", "no group is called \"none\""),
            ("77", "write 77:GROUP"),
            ("4294967295:1", "no user is called"),
            ("-1:1", "no user is called"),
        ] {
            let error = User::find(text, USERS, GROUPS).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn this_machine_has_a_root() {
        assert_eq!("root".parse::<User>().unwrap(), User { uid: 0, gid: 0 });
        assert_eq!("3:4".parse::<User>().unwrap().to_string(), "3:4");
    }
}
