//! What a template finds around it: the functions and the manners that `transformers` gives to
//! templates, and the bounds of their work.

use std::fmt;

use minijinja::machinery::{eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as Jinja};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};

use super::{CHAT_LIMIT, Chat, ChatError, date, error_of, program};
use crate::tokenizer::TextTokenizer;

/// The template's name in its environment.
pub(super) const NAME: &str = "chat";
/// Steps of a template, beside one for each byte of the conversation; a step also pays for 64 bytes
/// that it makes. Templates of models take some thousands, and what messages come to.
const FUEL: u64 = 1 << 19;
/// Bytes of stack to read and run a template on: memory only as far as it is used. What takes stack
/// is bounded in `chat/program.rs`, and the test that tries to use it up measures less than half of
/// this.
const STACK: usize = 64 << 20;
/// Calls within calls.
const DEPTH: usize = 64;
/// Lists within lists, in what a conversation holds.
const NESTED: usize = 100;

/// The environment of a template, which is read to see that it is one.
pub(super) fn environment(source: &str) -> Result<Environment<'static>, ChatError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.map_err(|error| error_of(&error))?);
    environment.set_recursion_limit(DEPTH);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", to_json);
    let (syntax, source) = (environment.syntax().clone(), source.to_owned());
    on_a_stack(move || program::compile(&source, NAME, &syntax).map(drop))?;
    Ok(environment)
}

/// The variables of a template.
#[derive(Clone)]
pub(super) struct Context {
    /// What came with the conversation.
    pub strangers: Map<String, Value>,
    /// Roles of the messages, in order.
    pub roles: Vec<String>,
    /// What the host says: marks of the model.
    pub own: Map<String, Value>,
    /// Bytes of the conversation.
    pub size: usize,
}

impl Context {
    pub fn into_value(mut self) -> Jinja {
        if let Some(messages) = self
            .strangers
            .get_mut("messages")
            .and_then(Value::as_array_mut)
        {
            for (message, role) in messages.iter_mut().zip(self.roles) {
                if let Some(message) = message.as_object_mut() {
                    // First, as conversations are written by hand.
                    message.shift_insert(0, "role".to_owned(), role.into());
                }
            }
        }
        let mut all = self.strangers;
        all.extend(self.own);
        Jinja::from(Serde(all))
    }
}

/// What the template of a conversation may look at.
pub(super) fn context(chat: &Chat, tokenizer: &TextTokenizer) -> Result<Context, ChatError> {
    let mut messages = Vec::new();
    for message in &chat.messages {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let role = &message.role;
        if role.is_empty() || role.len() > 32 || !role.chars().all(plain) {
            let role = role.chars().take(32).collect();
            return Err(ChatError::Role { role });
        }
        let mut fields = Map::new();
        fields.insert("content".to_owned(), message.content.as_str().into());
        fields.extend(message.fields.clone());
        fields.remove("role");
        messages.push(Value::Object(fields));
    }
    let mut strangers = chat.variables.clone();
    strangers.insert("messages".to_owned(), Value::Array(messages));
    if !chat.tools.is_empty() {
        strangers.insert("tools".to_owned(), Value::Array(chat.tools.clone()));
    }
    let mut left = CHAT_LIMIT;
    for value in strangers.values() {
        measure(value, NESTED, &mut left).ok_or(ChatError::TooLong)?;
    }
    let special = tokenizer.special();
    let mut own = Map::new();
    own.insert(
        "add_generation_prompt".to_owned(),
        json!(chat.add_generation_prompt),
    );
    for (name, token) in [
        ("bos_token", special.bos),
        ("eos_token", special.eos),
        ("unk_token", special.unknown),
        ("pad_token", special.padding),
    ] {
        // A token that the model has not is undefined, which templates write as nothing.
        if let Some(text) = token.and_then(|token| tokenizer.mark(token)) {
            own.insert(name.to_owned(), text.into());
        }
    }
    for (name, absent) in [("tools", Value::Null), ("documents", Value::Null)] {
        if !strangers.contains_key(name) {
            own.insert(name.to_owned(), absent);
        }
    }
    Ok(Context {
        strangers,
        roles: chat
            .messages
            .iter()
            .map(|message| message.role.clone())
            .collect(),
        own,
        size: CHAT_LIMIT - left,
    })
}

/// Takes the size of a value from `left`; nothing where it is too large or nested too deeply.
fn measure(value: &Value, depth: usize, left: &mut usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let mut take = |size: usize| {
        *left = left.checked_sub(size)?;
        Some(())
    };
    match value {
        Value::String(text) => take(text.len() + 8),
        Value::Array(values) => {
            take(8)?;
            values
                .iter()
                .try_for_each(|value| measure(value, depth, left))
        }
        Value::Object(map) => {
            take(8)?;
            map.iter().try_for_each(|(key, value)| {
                *left = left.checked_sub(key.len() + 8)?;
                measure(value, depth, left)
            })
        }
        _ => take(8),
    }
}

/// Runs a template over a conversation, with steps in proportion to it. All values are made and let
/// go of on a thread of their own.
pub(super) fn run(
    environment: &Environment<'static>,
    source: &str,
    context: Context,
    now: Option<u64>,
) -> Result<String, ChatError> {
    let size = context.size as u64;
    let mut environment = environment.clone();
    environment.set_fuel(Some(FUEL + size));
    program::add_guard(&mut environment, size);
    let source = source.to_owned();
    on_a_stack(move || {
        let mut variables = vec![context.into_value()];
        variables.extend(now.map(clock));
        render(
            &environment,
            &source,
            minijinja::value::merge_maps(variables),
        )
    })
}

/// Reads a template and runs it, here and now.
pub(super) fn render(
    environment: &Environment<'static>,
    source: &str,
    variables: Jinja,
) -> Result<String, Error> {
    let program = program::compile(source, NAME, environment.syntax())?;
    let blocks = std::collections::BTreeMap::new();
    let mut text = String::new();
    let mut out = make_string_output(&mut text);
    let ran = eval(
        environment,
        &program,
        variables,
        &blocks,
        &mut out,
        AutoEscape::None,
    );
    drop(ran?);
    drop(out);
    Ok(text)
}

/// Does work on a thread that has stack enough for any template.
fn on_a_stack<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, ChatError> {
    let thread = std::thread::Builder::new()
        .name("chat template".to_owned())
        .stack_size(STACK);
    let work = move || work().map_err(|error| error_of(&error));
    match thread.spawn(work).map(std::thread::JoinHandle::join) {
        Ok(Ok(result)) => result,
        _ => Err(ChatError::NoThread),
    }
}

/// The clock of a template that asks for one.
fn clock(now: u64) -> Jinja {
    let strftime = Jinja::from_function(move |format: &str| date::format(format, now));
    Jinja::from_pairs([("strftime_now", strftime)])
}

/// What a template says when it refuses a conversation.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Jinja, Error> {
    let message = message.chars().take(500).collect();
    Err(Error::new(
        ErrorKind::InvalidOperation,
        "the template raised an exception",
    )
    .with_source(Raised(message)))
}

/// Whether the error, or one that it comes from, is that the template took too much work.
pub(super) fn out_of_fuel(error: &Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        let fuel = error.downcast_ref::<Error>();
        if fuel.is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
            return true;
        }
        source = error.source();
    }
    false
}

/// What the template said, if it raised the error itself.
pub(super) fn raised(error: &Error) -> Option<String> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(raised) = error.downcast_ref::<Raised>() {
            return Some(raised.0.clone());
        }
        source = error.source();
    }
    None
}

/// JSON as Python's `json.dumps` writes it with `ensure_ascii=False`.
fn to_json(value: Jinja, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    // These change nothing here.
    let _: Option<Jinja> = options.get("ensure_ascii")?;
    let separators: Option<(String, String)> = options
        .get::<Option<Vec<String>>>("separators")?
        .and_then(|pair| pair.try_into().ok())
        .map(|[item, key]: [String; 2]| (item, key));
    options.assert_all_used()?;
    let refused = |error: serde_json::Error| {
        Error::new(ErrorKind::BadSerialization, "it cannot be written as JSON").with_source(error)
    };
    let mut value = serde_json::to_value(&value).map_err(refused)?;
    if sorted {
        value.sort_all_objects();
    }
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(16));
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, formatter))
        }
        None => {
            let (item, key) = separators.unwrap_or((", ".to_owned(), ": ".to_owned()));
            value.serialize(&mut Serializer::with_formatter(
                &mut out,
                Python { item, key },
            ))
        }
    };
    written.map_err(refused)?;
    String::from_utf8(out)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// One line, with what stands between items and after keys.
struct Python {
    item: String,
    key: String,
}

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        match first {
            true => Ok(()),
            false => writer.write_all(self.item.as_bytes()),
        }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Bytes of this thread's stack that have been written to, by what the system has given it
    /// memory for.
    fn stack_used() -> u64 {
        let local = 0_u8;
        let here = std::ptr::from_ref(&local).addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            if let Some((from, to)) = range
                && let (Ok(from), Ok(to)) = (
                    usize::from_str_radix(from, 16),
                    usize::from_str_radix(to, 16),
                )
            {
                inside = (from..to).contains(&here);
            } else if inside && let Some(size) = line.strip_prefix("Rss:") {
                return 1024 * size.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            }
        }
        panic!("the stack lies nowhere");
    }

    /// Renders on a stack as large as it is for strangers, and says how much of it was used.
    fn measure(source: String) -> u64 {
        let mut environment = environment("").unwrap();
        environment.set_fuel(Some(1 << 24));
        program::add_guard(&mut environment, 0);
        let work = move || {
            let before = stack_used();
            let deep = (0..90).fold(json!("x"), |inner, _| json!([inner]));
            let variables = Jinja::from(Serde(json!({"deep": deep, "x": 1})));
            drop(render(&environment, &source, variables));
            stack_used() - before
        };
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn(work).unwrap().join().unwrap()
    }

    #[test]
    fn no_template_uses_half_of_the_stack() {
        let most = |sources: Vec<String>| {
            let used = sources
                .into_iter()
                .map(|source| (measure(source.clone()), source));
            let (used, source) = used.max().unwrap();
            let shown: String = source.chars().take(60).collect();
            println!("{used} bytes at most, by {shown}");
            used
        };
        // Expressions as long as a tag may be, by themselves and in as many blocks as there may be.
        let blocks = |inside: &str| {
            format!(
                "{}{inside}{}",
                "{% if x %}".repeat(140),
                "{% endif %}".repeat(140)
            )
        };
        let links = [
            "+x", "~x", "|string", "|list", "[0]", ".a", " and x", " == x", "()", " is odd",
        ];
        let long = links.map(|link| format!("{{{{ x{} }}}}", link.repeat(4000 / 2)));
        let many = links.map(|link| format!("{{{{ x{} }}}}", link.repeat(1300)));
        let mut expressions: Vec<String> = long.iter().chain(&many).cloned().collect();
        expressions.extend(many.iter().map(|inside| blocks(inside)));
        expressions.push(format!("{{{{ {} x }}}}", "not ".repeat(4000)));
        expressions.push(format!("{{{{ {} x }}}}", "-".repeat(4000)));
        expressions.push(format!("{{{{ {}x{} }}}}", "(".repeat(140), ")".repeat(140)));
        expressions.push(format!("{{{{ {}x{} }}}}", "[".repeat(140), "]".repeat(140)));
        let branches = "{% elif x %}".repeat(1000);
        expressions.push(format!("{{% if not x %}}{branches}{{% endif %}}"));
        // Values as deep as they may be, in all that goes down into them.
        let grow = "{% set ns = namespace(y=deep) %}\
            {% for i in range(30) %}{% set ns.y = [ns.y] %}{% endfor %}\
            {% set z = namespace(y=deep) %}\
            {% for i in range(30) %}{% set z.y = [z.y] %}{% endfor %}";
        let uses = [
            "{{ ns.y }}",
            "{{ ns.y | tojson }}",
            "{{ ns.y | tojson(indent=2) }}",
            "{{ ns.y == z.y }}",
            "{{ ns.y < z.y }}",
            "{{ ns.y in [z.y] }}",
            "{{ {ns.y: 1}[z.y] }}",
            "{{ ns.y | pprint }}",
            "{{ [ns.y, z.y] | sort }}",
            "{{ [ns.y, z.y] | unique | list }}",
            "{{ ns.y ~ z.y }}",
            "{{ [ns.y, z.y] | join(',') }}",
            "{{ ns.y | string }}",
            "{{ [ns.y] | max }}",
            "{{ [ns.y] | groupby(0) }}",
            "{{ '%s' | format(ns.y) }}",
            "{{ ns.y | safe }}",
            "{{ ns.y is eq z.y }}",
            "{{ ns.y | urlencode }}",
            "{{ ns.y | tojson(sort_keys=true) }}",
        ];
        let values = uses.map(|used| format!("{grow}{used}"));
        // Calls within calls, each with such values.
        let calls = [
            "{% macro m(a) %}{{ a }}{{ m(a) }}{% endmacro %}{{ m(deep) }}",
            "{% macro m(a) %}{% call m(a) %}{{ a }}{% endcall %}{% endmacro %}{{ m(deep) }}",
            "{% for a in [[deep]] recursive %}{{ a }}{{ loop([a]) }}{% endfor %}",
        ]
        .map(str::to_owned);
        for sources in [expressions, values.to_vec(), calls.to_vec()] {
            let used = most(sources);
            assert!(used < STACK as u64 / 2, "{used}");
        }
    }
}
