//! Lists of system calls, and the filter that is made of them.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// A system call that is let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    number: i64,
    test: Option<Test>,
    /// What else has to be, at the same time.
    also: Option<Test>,
}

/// What one of its arguments has to be. Arguments count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    /// Of these bits, these.
    Bits { argument: u8, of: u32, are: u32 },
    /// This process's number.
    OwnProcess { argument: u8 },
}

impl Call {
    /// With any arguments.
    pub(super) const fn any(number: libc::c_long) -> Self {
        Self { number, test: None, also: None }
    }

    /// With this value in an argument of 32 bits.
    pub(super) const fn with(number: libc::c_long, argument: u8, value: u32) -> Self {
        Self::masked(number, argument, u32::MAX, value)
    }

    /// With these bits of an argument.
    pub(super) const fn masked(number: libc::c_long, argument: u8, of: u32, are: u32) -> Self {
        Self { number, test: Some(Test::Bits { argument, of, are }), also: None }
    }

    /// And with these bits of another argument.
    pub(super) const fn and(self, argument: u8, of: u32, are: u32) -> Self {
        Self { also: Some(Test::Bits { argument, of, are }), ..self }
    }

    /// With this process in an argument.
    pub(super) const fn own_process(number: libc::c_long, argument: u8) -> Self {
        Self { number, test: Some(Test::OwnProcess { argument }), also: None }
    }

    #[cfg(test)]
    pub(super) const fn number(&self) -> i64 {
        self.number
    }
}

/// A filter that lets these pass.
pub(super) fn compile(calls: &[Call], mismatch: SeccompAction) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for call in calls {
        let rules = rules.entry(call.number).or_insert_with(|| Some(Vec::new()));
        match (call.test, rules) {
            // Once a call is let pass with any arguments, what else is said of it does not count.
            (None, rules) => *rules = None,
            (Some(test), Some(rules)) => rules.push(rule(test, call.also)?),
            (Some(_), None) => {}
        }
    }
    // To seccompiler, a call without rules is one with any arguments.
    let rules = rules.into_iter().map(|(number, rules)| (number, rules.unwrap_or_default())).collect();
    SeccompFilter::new(rules, mismatch, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

fn rule(test: Test, also: Option<Test>) -> Result<SeccompRule, BackendError> {
    let conditions = [Some(test), also].into_iter().flatten().map(condition);
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

fn condition(test: Test) -> Result<SeccompCondition, BackendError> {
    let (argument, operator, value) = match test {
        Test::Bits { argument, of: u32::MAX, are } => (argument, SeccompCmpOp::Eq, are),
        Test::Bits { argument, of, are } => (argument, SeccompCmpOp::MaskedEq(u64::from(of)), are),
        Test::OwnProcess { argument } => (argument, SeccompCmpOp::Eq, std::process::id()),
    };
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, u64::from(value))
}
