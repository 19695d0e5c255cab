//! A template as a program of the engine, with a guard between its steps.
//!
//! The engine counts steps and bytes, but some of what it does with values takes more time, memory
//! or stack than it counts: a list may hold itself by way of a namespace; lists of one list twice,
//! thirty deep, are small until they are compared or written; letting go of a value goes as deep
//! into the stack as the value is nested. So after each step that may bring a value forth, the
//! guard looks at the value as a whole, through all that it holds, shared parts as often as they
//! are held. It refuses what is nested too deeply or too large and counts its size as work; and
//! nothing that could be reached from itself is ever put into a namespace. What any later step
//! does with values is then within bounds.
//!
//! A template's own text is bounded before it is read: how deep the reader and what it makes go
//! into the stack depends on how long one tag is and on how many branches a condition has.
//!
//! What this module must never do: change what a template means; let a value pass that a later
//! step could follow without end.

use minijinja::machinery::{
    CodeGenerator, Instruction as Step, Instructions, Token, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{ObjectRepr, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

/// The test that looks at a value. No template can name it: it is no word.
const GUARD: &str = "guard:any";
/// The same, for what is put into a namespace.
const STRICT: &str = "guard:plain";
/// The engine keeps no place for these tests.
const NO_PLACE: u8 = u8::MAX;

/// Values within values.
pub(super) const VALUE_DEPTH: usize = 128;
/// Values that one holds, itself included, and 64 bytes of its texts each counting for one, beside
/// what the conversation has.
const VALUE_SIZE: u64 = 1 << 18;
/// Values that are looked at for a step's worth of work.
const VALUES_PER_STEP: u64 = 64;

/// Words and signs of one tag.
const TAG_TOKENS: usize = 4096;
/// Branches of all conditions, beside the first of each.
const BRANCHES: usize = 1024;

/// Adds the guard's tests. `conversation` is the size of the conversation in bytes.
pub(super) fn add_guard(environment: &mut Environment<'static>, conversation: u64) {
    let most = VALUE_SIZE + conversation;
    environment.add_test(GUARD, move |state: &State, value: Value| {
        look(state, &value, most)?;
        Ok::<bool, Error>(true)
    });
    environment.add_test(STRICT, move |state: &State, value: Value| {
        if is_opaque(&value) {
            return Err(refused("a namespace cannot hold this"));
        }
        look(state, &value, most)?;
        Ok::<bool, Error>(true)
    });
}

/// Reads a template and puts the guard between its steps.
pub(super) fn compile<'s>(
    source: &'s str,
    name: &'s str,
    syntax: &SyntaxConfig,
) -> Result<Instructions<'s>, Error> {
    measure_tags(source, syntax)?;
    let tree = parse(source, name, syntax.clone())?;
    let mut code = CodeGenerator::new(name, source);
    code.compile_stmt(&tree);
    // Without templates of other names there are no blocks.
    let (steps, _) = code.finish();
    Ok(guarded(&steps, name, source))
}

/// Refuses tags and conditions that would make a tree that is too deep.
fn measure_tags(source: &str, syntax: &SyntaxConfig) -> Result<(), Error> {
    let too_long = |what: &str, line: u16| {
        let reason = format!("{what} is too long; at line {line}");
        Err(Error::new(ErrorKind::SyntaxError, reason))
    };
    let (mut tag, mut branches) = (0, 0);
    for token in tokenize(source, false, syntax.clone()) {
        // What is wrong here is wrong for the reader too, who says it better.
        let Ok((token, span)) = token else {
            return Ok(());
        };
        match token {
            Token::TemplateData(_) | Token::BlockStart | Token::VariableStart => tag = 0,
            Token::Ident("elif") => branches += 1,
            _ => {}
        }
        tag += 1;
        if tag > TAG_TOKENS {
            return too_long("a tag", span.start_line);
        }
        if branches > BRANCHES {
            return too_long("a condition", span.start_line);
        }
    }
    Ok(())
}

/// The same steps with the guard in between, and all jumps to where they went.
fn guarded<'s>(steps: &Instructions<'s>, name: &'s str, source: &'s str) -> Instructions<'s> {
    let all: Vec<&Step<'s>> = (0..).map_while(|at| steps.get(at)).collect();
    // Where each step begins among the new ones, with what stands before it, and where the last
    // ends.
    let mut places = Vec::with_capacity(all.len() + 1);
    let mut next = 0_u32;
    for at in 0..all.len() {
        places.push(next);
        next += 1 + 3 * u32::from(is_kept(&all, at)) + 3 * u32::from(brings_forth(all[at]));
    }
    places.push(next);
    let place = |target: &u32| places.get(*target as usize).copied().unwrap_or(next);
    let mut out = Instructions::new(name, source);
    for (at, step) in all.iter().enumerate() {
        let line = steps.get_line(at as u32).unwrap_or(0) as u16;
        if is_kept(&all, at) {
            look_at(&mut out, STRICT, line);
        }
        let moved = match step {
            Step::Iterate(target) => Step::Iterate(place(target)),
            Step::Jump(target) => Step::Jump(place(target)),
            Step::JumpIfFalse(target) => Step::JumpIfFalse(place(target)),
            Step::JumpIfFalseOrPop(target) => Step::JumpIfFalseOrPop(place(target)),
            Step::JumpIfTrueOrPop(target) => Step::JumpIfTrueOrPop(place(target)),
            Step::BuildMacro(name, target, flags) => Step::BuildMacro(name, place(target), *flags),
            other => (*other).clone(),
        };
        out.add_with_line(moved, line);
        if brings_forth(step) {
            look_at(&mut out, GUARD, line);
        }
    }
    out
}

/// Looks at the value on the top of the stack, and leaves it there.
fn look_at<'s>(out: &mut Instructions<'s>, test: &'static str, line: u16) {
    out.add_with_line(Step::DupTop, line);
    out.add_with_line(Step::PerformTest(test, Some(1), NO_PLACE), line);
    out.add_with_line(Step::DiscardTop, line);
}

/// Whether a step leaves a value on the stack that may hold others.
fn brings_forth(step: &Step<'_>) -> bool {
    match step {
        Step::Lookup(_)
        | Step::GetAttr(_)
        | Step::GetItem
        | Step::Slice
        | Step::BuildMap(_)
        | Step::BuildList(_)
        | Step::BuildTuple(_)
        | Step::Add
        | Step::Mul
        | Step::ApplyFilter(..)
        | Step::CallFunction(..)
        | Step::CallMethod(..)
        | Step::CallObject(_) => true,
        // Texts, numbers and truths; what was looked at before; or nothing. Named arguments go
        // straight into a call.
        Step::EmitRaw(_)
        | Step::StoreLocal(_)
        | Step::SetAttr(_)
        | Step::LoadConst(_)
        | Step::BuildKwargs(_)
        | Step::MergeKwargs(_)
        | Step::UnpackList(_)
        | Step::UnpackLists(_)
        | Step::Sub
        | Step::Div
        | Step::IntDiv
        | Step::Rem
        | Step::Pow
        | Step::Neg
        | Step::Eq
        | Step::Ne
        | Step::Gt
        | Step::Gte
        | Step::Lt
        | Step::Lte
        | Step::Not
        | Step::StringConcat
        | Step::In
        | Step::CompareAndPreserve(_)
        | Step::PerformTest(..)
        | Step::Emit
        | Step::PushLoop(_)
        | Step::PushWith
        | Step::Iterate(_)
        | Step::PushDidNotIterate
        | Step::PopFrame
        | Step::PopLoopFrame
        | Step::Jump(_)
        | Step::JumpIfFalse(_)
        | Step::JumpIfFalseOrPop(_)
        | Step::JumpIfTrueOrPop(_)
        | Step::PushAutoEscape
        | Step::PopAutoEscape
        | Step::BeginCapture(_)
        | Step::EndCapture
        | Step::DupTop
        | Step::DiscardTop
        | Step::FastRecurse
        | Step::Swap
        | Step::BuildMacro(..)
        | Step::Return
        | Step::IsUndefined
        | Step::Enclose(_)
        | Step::GetClosure => false,
    }
}

/// Whether the step begins to name a place in a namespace that the value on the stack is put into:
/// a variable, attributes of it, and then the assignment.
fn is_kept(all: &[&Step<'_>], at: usize) -> bool {
    matches!(all[at], Step::Lookup(_))
        && all[at + 1..]
            .iter()
            .find(|step| !matches!(step, Step::GetAttr(_)))
            .is_some_and(|step| matches!(step, Step::SetAttr(_)))
}

/// Refuses a value that is too large or nested too deeply, and counts its size as work.
fn look(state: &State, value: &Value, most: u64) -> Result<(), Error> {
    let mut left = most;
    measure(value, VALUE_DEPTH, &mut left)?;
    state.consume_fuel((most - left) / VALUES_PER_STEP)
}

fn measure(value: &Value, depth: usize, left: &mut u64) -> Result<(), Error> {
    let too_large = || refused("a value is too large");
    let mut size = 1;
    match value.kind() {
        ValueKind::String => size += value.as_str().map_or(0, str::len) as u64 / 64,
        ValueKind::Bytes => size += value.as_bytes().map_or(0, <[u8]>::len) as u64 / 64,
        _ => {}
    }
    *left = left.checked_sub(size).ok_or_else(too_large)?;
    let Some(object) = value.as_object() else {
        return Ok(());
    };
    let deeper = depth
        .checked_sub(1)
        .ok_or_else(|| refused("values are nested too deeply"))?;
    let mut inside = |value: &Value| match is_opaque(value) {
        // It could be reached from itself.
        true => Err(refused("a list or a map cannot hold this")),
        false => measure(value, deeper, left),
    };
    match object.repr() {
        ObjectRepr::Map => {
            for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                inside(&key)?;
                inside(&value)?;
            }
        }
        ObjectRepr::Seq | ObjectRepr::Iterable => {
            for value in object.try_iter().into_iter().flatten() {
                inside(&value)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether a value is one of the engine's own that hold others out of sight, or may change:
/// namespaces, loops, macros and functions.
fn is_opaque(value: &Value) -> bool {
    let Some(object) = value.as_object() else {
        return false;
    };
    let kind = object.type_name();
    matches!(object.repr(), ObjectRepr::Plain)
        || [
            "namespace_object::",
            "loop_object::",
            "macro_object::",
            "functions::",
        ]
        .iter()
        .any(|module| kind.contains(module))
}

fn refused(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renders with the guard alone: no bound on steps.
    fn render(source: &str) -> Result<String, Error> {
        let mut environment = Environment::new();
        add_guard(&mut environment, 0);
        environment.set_fuel(Some(1 << 30));
        super::super::environment::render(&environment, source, Value::UNDEFINED)
    }

    #[test]
    fn programs_mean_what_they_meant() {
        for source in [
            "{% for i in range(5) if i != 2 %}{{ loop.index }}{{ i }}{% else %}none{% endfor %}",
            "{% for i in [] %}x{% else %}none{% endfor %}",
            "{% macro m(a, b=[1, 2]) %}{{ a }}{{ b }}{{ caller() if caller else '' }}{% endmacro %}\
             {{ m(1) }}{{ m([3], b={'x': 1}) }}{% call m(2) %}in{% endcall %}",
            "{% set ns = namespace(x=[], n=0) %}{% for i in range(9) %}{% if i is odd %}{% continue %}\
             {% elif i == 6 %}{% break %}{% endif %}{% set ns.x = ns.x + [i] %}{% set ns.n = i %}\
             {% endfor %}{{ ns.x }}{{ ns.n }}",
            "{% set a, b = [1, 2] %}{{ a + b if a < b <= 2 else 'no' }}{{ (1, 2) + (3,) }}",
            "{{ {'a': [1, 2, 3][1:]}['a'] | map('string') | join('-') ~ 'x' * 3 }}",
            "{% with x = 1 %}{% set y %}{{ x }}!{% endset %}{{ y | upper }}{% endwith %}",
            "{% for a in [[1, [2]], [3]] recursive %}{{ loop(a) if a is sequence else a }}{% endfor %}",
            "{{ x is defined and x.y or [] or 'z' }}{{ 1 in [1] and 'a' not in 'b' }}",
            "{% filter upper %}{{ dict(a=1) | items | list }}{% endfilter %}{{ nothing }}",
        ] {
            let plain = Environment::new().render_str(source, ()).unwrap();
            assert_eq!(render(source).unwrap(), plain, "{source}");
            assert!(!plain.is_empty());
        }
    }

    #[test]
    fn values_that_could_be_followed_without_end_are_refused() {
        let doubled = "{% set x = [x, x] %}".repeat(40);
        let deep = "{% set x = [x] %}".repeat(200);
        for source in [
            "{% set ns = namespace() %}{% set ns.x = ns %}",
            "{% set ns = namespace() %}{% set ns.x = [ns] %}",
            "{% set ns = namespace() %}{% set ns.x = {'a': {'b': ns}} %}",
            "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}",
            "{% set ns = namespace() %}{% for i in [1] %}{% set ns.x = loop %}{% endfor %}",
            "{% set ns = namespace() %}{% for i in [1] %}{% set ns.x = [loop] %}{% endfor %}",
            "{% set ns = namespace() %}{% macro m() %}{% endmacro %}{% set ns.x = m %}",
            "{% set ns = namespace() %}{% macro m() %}{% endmacro %}{% set ns.x = {'m': m} %}",
            "{% set ns = namespace() %}{% set ns.x = range %}",
            "{% set ns = namespace(x=[]) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}",
            "{% set ns = namespace(x=[]) %}{% for i in range(200) %}{% set ns.x = {'x': ns.x} %}{% endfor %}",
            "{% macro m(x, n) %}{% if n %}{{ m([x, x, x, x, x, x, x, x], n - 1) }}{% endif %}{% endmacro %}{{ m([], 9) }}",
            "{{ [1] * 1000000000 }}",
            &doubled,
            &deep,
        ] {
            let error = render(source).unwrap_err();
            let detail = error.detail().unwrap_or_default().to_owned();
            let ours = ["nested too deeply", "too large", "cannot hold this"];
            assert!(
                ours.iter().any(|reason| detail.contains(reason)),
                "{source}: {error}"
            );
        }
    }

    #[test]
    fn the_text_of_a_template_is_bounded_before_it_is_read() {
        let syntax = SyntaxConfig::default();
        let refused = |source: &str| {
            let error = compile(source, "t", &syntax).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::SyntaxError);
            error.to_string()
        };
        for long in ["+1", "|list", ".a", "[0]", "~x", " if x", " and x", ",1"] {
            let source = format!("a\n{{{{ x{} }}}}", long.repeat(100_000));
            assert!(refused(&source).contains("too long"), "{long}");
        }
        let branches = "{% elif x %}".repeat(60_000);
        let source = format!("{{% if x %}}{branches}{{% endif %}}");
        assert!(refused(&source).contains("too long"));
        refused(&"{% if x %}".repeat(60_000));
        refused(&format!("{{{{ {} }}}}", "(".repeat(4000)));
        assert!(compile(&"{{ x }}".repeat(60_000), "t", &syntax).is_ok());
    }
}
