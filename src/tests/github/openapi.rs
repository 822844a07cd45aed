//! The part of GitHub's OpenAPI description that is used, as a table: requests that it does not have are refused, and
//! the table itself is held to the description where that is at hand (`.ci/fetch-github-api` fetches it).

use serde_json::Value;

/// One operation.
struct Operation {
    method: &'static str,
    /// The path, with `{}` for what varies.
    path: &'static str,
    /// The parameters of its query that are used.
    query: &'static [&'static str],
    /// The properties of the body that are used, a dot for what is inside, and whether the description requires them.
    body: &'static [(&'static str, bool)],
    /// The status of success.
    success: u16,
    /// The properties of the answer that are read.
    read: &'static [&'static str],
}

const OPERATIONS: [Operation; 10] = [
    Operation {
        method: "get",
        path: "/user",
        query: &[],
        body: &[],
        success: 200,
        read: &["login"],
    },
    Operation {
        method: "get",
        path: "/repos/{}/{}/pulls",
        query: &["state", "head", "per_page"],
        body: &[],
        success: 200,
        read: &["number", "head.sha", "head.repo.full_name"],
    },
    Operation {
        method: "get",
        path: "/repos/{}/{}/pulls/{}",
        query: &[],
        body: &[],
        success: 200,
        read: &["number", "head.sha", "head.repo.full_name"],
    },
    Operation {
        method: "get",
        path: "/repos/{}/{}/commits/{}/pulls",
        query: &[],
        body: &[],
        success: 200,
        read: &["number", "merged_at"],
    },
    Operation {
        method: "get",
        path: "/repos/{}/{}/issues/{}/comments",
        query: &["per_page", "page"],
        body: &[],
        success: 200,
        read: &["id", "html_url", "body", "user.login"],
    },
    Operation {
        method: "post",
        path: "/repos/{}/{}/issues/{}/comments",
        query: &[],
        body: &[("body", true)],
        success: 201,
        read: &["id", "html_url", "body", "user.login"],
    },
    Operation {
        method: "patch",
        path: "/repos/{}/{}/issues/comments/{}",
        query: &[],
        body: &[("body", true)],
        success: 200,
        read: &["id", "html_url", "body", "user.login"],
    },
    Operation {
        method: "delete",
        path: "/repos/{}/{}/issues/comments/{}",
        query: &[],
        body: &[],
        success: 204,
        read: &[],
    },
    Operation {
        method: "post",
        path: "/repos/{}/{}/check-runs",
        query: &[],
        body: &[
            ("name", true),
            ("head_sha", true),
            ("status", false),
            ("conclusion", false),
            ("output", false),
            ("output.title", true),
            ("output.summary", true),
            ("output.annotations", false),
            ("output.annotations.path", true),
            ("output.annotations.start_line", true),
            ("output.annotations.end_line", true),
            ("output.annotations.annotation_level", true),
            ("output.annotations.message", true),
            ("output.annotations.title", false),
        ],
        success: 201,
        read: &["id", "html_url"],
    },
    Operation {
        method: "patch",
        path: "/repos/{}/{}/check-runs/{}",
        query: &[],
        body: &[
            ("output", false),
            ("output.title", false),
            ("output.summary", true),
            ("output.annotations", false),
            ("output.annotations.path", true),
            ("output.annotations.start_line", true),
            ("output.annotations.end_line", true),
            ("output.annotations.annotation_level", true),
            ("output.annotations.message", true),
            ("output.annotations.title", false),
        ],
        success: 200,
        read: &["id", "html_url"],
    },
];

/// The longest texts and lists that the description allows.
const MAX_SUMMARY: usize = 65_535;
const MAX_ANNOTATIONS: usize = 50;

/// Whether a request is one of those that the description has.
pub fn check(method: &str, path: &str, query: &[&str], body: &Value) -> Result<(), String> {
    let operation = find(method, path)?;
    let wrong = |what: String| Err(format!("{method} {path}: {what}"));
    if let Some(unknown) = query.iter().find(|name| !operation.query.contains(name)) {
        return wrong(format!("the query has {unknown}"));
    }
    if operation.body.is_empty() && !body.is_null() {
        return wrong(format!("a body: {body}"));
    }
    let present = names(body);
    for name in &present {
        if !operation.body.iter().any(|(known, _)| known == name) {
            return wrong(format!("the body has {name}"));
        }
    }
    for (name, required) in operation.body {
        let parent = name.rsplit_once('.').map(|(parent, _)| parent);
        let applies = parent.is_none_or(|parent| {
            present.iter().any(|known| known == parent) && !is_empty_list(body, parent)
        });
        if *required && applies && !present.iter().any(|known| known == name) {
            return wrong(format!("the body lacks {name}"));
        }
    }
    let output = &body["output"];
    let summary = output["summary"].as_str().unwrap_or_default();
    let annotations = output["annotations"].as_array().map_or(0, Vec::len);
    if summary.chars().count() > MAX_SUMMARY || annotations > MAX_ANNOTATIONS {
        return wrong(format!(
            "{} characters, {annotations} annotations",
            summary.len()
        ));
    }
    Ok(())
}

/// Whether an answer of ours has the status and the properties that the description promises.
pub fn check_answer(method: &str, path: &str, status: u16, body: &Value) -> Result<(), String> {
    let operation = find(method, path)?;
    if status >= 400 {
        return Ok(());
    }
    if status != operation.success {
        return Err(format!("{method} {path}: the status {status}"));
    }
    let entries = match body.as_array() {
        Some(entries) => entries.iter().collect(),
        None => vec![body],
    };
    for entry in entries {
        for name in operation.read {
            if name
                .split('.')
                .fold(entry, |value, part| &value[part])
                .is_null()
            {
                return Err(format!("{method} {path}: the answer lacks {name}"));
            }
        }
    }
    Ok(())
}

fn find(method: &str, path: &str) -> Result<&'static Operation, String> {
    let parts: Vec<&str> = path.split('/').collect();
    OPERATIONS
        .iter()
        .find(|operation| {
            let template: Vec<&str> = operation.path.split('/').collect();
            let same = |(a, b): (&&str, &&str)| *a == "{}" || a == b;
            operation.method.eq_ignore_ascii_case(method)
                && template.len() == parts.len()
                && template.iter().zip(&parts).all(same)
        })
        .ok_or_else(|| format!("{method} {path} is not described"))
}

/// The names of all properties in `value`, a dot for what is inside.
fn names(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match value {
        Value::Object(properties) => {
            for (name, value) in properties {
                found.push(name.clone());
                found.extend(
                    names(value)
                        .into_iter()
                        .map(|inner| format!("{name}.{inner}")),
                );
            }
        }
        Value::Array(entries) => found.extend(entries.iter().flat_map(names)),
        _ => {}
    }
    found.sort();
    found.dedup();
    found
}

fn is_empty_list(body: &Value, name: &str) -> bool {
    let value = name.split('.').fold(body, |value, part| &value[part]);
    value.as_array().is_some_and(Vec::is_empty)
}

#[test]
fn the_table_is_what_github_describes() {
    let Ok(file) = std::env::var("TOKGATE_GITHUB_API") else {
        eprintln!(
            "skipped: TOKGATE_GITHUB_API names no description; .ci/fetch-github-api fetches it"
        );
        return;
    };
    let text = std::fs::read_to_string(file).unwrap();
    let description: Value = serde_json::from_str(&text).unwrap();
    let paths = description["paths"].as_object().unwrap();
    for ours in &OPERATIONS {
        let said = format!("{} {}", ours.method, ours.path);
        let template = |path: &str| {
            let parts = path.split('/');
            let parts = parts.map(|part| if part.starts_with('{') { "{}" } else { part });
            parts.collect::<Vec<_>>().join("/")
        };
        let (_, path) = paths
            .iter()
            .find(|(path, _)| template(path) == ours.path)
            .expect(&said);
        let theirs = &path[ours.method];

        let parameters = theirs["parameters"].as_array().into_iter().flatten();
        let parameters: Vec<&Value> = parameters
            .map(|entry| follow(&description, entry))
            .collect();
        for name in ours.query {
            let known = |entry: &&Value| entry["name"] == *name && entry["in"] == "query";
            assert!(parameters.iter().any(known), "{said}: {name}");
        }
        let schema = &theirs["requestBody"]["content"]["application/json"]["schema"];
        for (name, required) in ours.body {
            let (parent, last) = name.rsplit_once('.').unwrap_or(("", name));
            let parent = inside(&description, schema, parent);
            assert!(!parent["properties"][last].is_null(), "{said}: {name}");
            let theirs = parent["required"].as_array().into_iter().flatten();
            assert_eq!(
                theirs.clone().any(|entry| entry == last),
                *required,
                "{said}: {name}"
            );
        }
        if !schema.is_null() && ours.path.contains("check-runs") {
            let output = inside(&description, schema, "output");
            assert_eq!(output["properties"]["summary"]["maxLength"], MAX_SUMMARY);
            assert_eq!(
                output["properties"]["annotations"]["maxItems"],
                MAX_ANNOTATIONS
            );
        }
        let answer = &theirs["responses"][ours.success.to_string()];
        assert!(!answer.is_null(), "{said}: {}", ours.success);
        let answer = &follow(&description, answer)["content"]["application/json"]["schema"];
        for name in ours.read {
            let found = inside(&description, answer, name);
            assert!(!found.is_null(), "{said}: the answer's {name}");
        }
    }
}

/// What a reference stands for; one of several alternatives; what a list holds.
fn follow<'a>(description: &'a Value, mut value: &'a Value) -> &'a Value {
    loop {
        // Alternatives beside properties only narrow what the properties say.
        let several = match value["properties"] {
            Value::Null => value["oneOf"]
                .as_array()
                .or(value["anyOf"].as_array())
                .or(value["allOf"].as_array()),
            _ => None,
        };
        if let Some(reference) = value["$ref"].as_str() {
            let path = reference.trim_start_matches("#/").split('/');
            value = path.fold(description, |value, part| &value[part]);
        } else if let Some(several) = several {
            // The first that is more than a bare null.
            value = several
                .iter()
                .find(|one| one["type"] != "null")
                .unwrap_or(&Value::Null);
        } else if value["type"] == "array" {
            value = &value["items"];
        } else {
            return value;
        }
    }
}

fn inside<'a>(description: &'a Value, schema: &'a Value, name: &str) -> &'a Value {
    let start = follow(description, schema);
    name.split('.')
        .filter(|part| !part.is_empty())
        .fold(start, |value, part| {
            follow(description, &value["properties"][part])
        })
}
