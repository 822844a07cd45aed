//! Conversations as the text that the model was trained to continue, by the model's own template.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context};
use serde::Serialize;
use serde_json::Value;

use crate::generation::chat::Template;
use crate::workload::sort::Message;

/// How much work a template may do: a long conversation takes some thousands of steps.
const FUEL: u64 = 5_000_000;

/// A chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    /// `None`: the model has no template.
    environment: Option<Environment<'static>>,
    plain: Template,
    bos: String,
    eos: String,
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// Who speaks.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl ChatTemplate {
    /// From the model's template, or for want of one by `plain`. `bos` and `eos` are what templates write at the
    /// beginning and the end.
    ///
    /// # Errors
    /// If the template cannot be parsed.
    pub fn new(
        source: Option<String>,
        plain: Template,
        bos: String,
        eos: String,
    ) -> Result<Self, Error> {
        let environment = match source {
            None => None,
            Some(source) => {
                let mut environment = Environment::new();
                // As transformers renders them.
                let mut syntax = SyntaxConfig::builder();
                syntax.trim_blocks(true).lstrip_blocks(true);
                environment.set_syntax(syntax.build()?);
                environment.set_undefined_behavior(UndefinedBehavior::Chainable);
                environment.set_unknown_method_callback(
                    minijinja_contrib::pycompat::unknown_method_callback,
                );
                environment.set_fuel(Some(FUEL));
                environment.add_function(
                    "raise_exception",
                    |message: String| -> Result<String, Error> {
                        Err(Error::new(ErrorKind::InvalidOperation, message))
                    },
                );
                environment.add_function("strftime_now", |format: String| {
                    jiff::Zoned::now().strftime(&format).to_string()
                });
                environment.add_template_owned("chat", source)?;
                Some(environment)
            }
        };
        Ok(Self {
            environment,
            plain,
            bos,
            eos,
        })
    }

    /// The text up to where the model is to answer; `extra` are variables of the request for the template
    /// (`enable_thinking`).
    ///
    /// # Errors
    /// If the template refuses the conversation.
    pub fn prompt(&self, turns: &[Turn], extra: &Value) -> Result<String, Error> {
        let Some(environment) = &self.environment else {
            let messages: Vec<Message> = turns
                .iter()
                .map(|turn| Message {
                    role: turn.role.clone(),
                    content: turn.content.clone(),
                })
                .collect();
            return Ok(self.plain.prompt(&messages));
        };
        let given = minijinja::Value::from(Serde(extra));
        let given = if extra.is_object() {
            given
        } else {
            context! {}
        };
        environment.get_template("chat")?.render(context! {
            messages => Serde(turns),
            add_generation_prompt => true,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            ..given
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part of Qwen's template that every conversation goes through.
    const CHATML: &str = "{%- if messages[0].role == 'system' %}\n    {{- '<|im_start|>system\\n' + messages[0].content.strip() + '<|im_end|>\\n' }}\n{%- endif %}\n{%- for message in messages %}\n    {%- if message.role != 'system' %}\n{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is defined and enable_thinking is false %}\n        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}";

    fn turn(role: &str, content: &str) -> Turn {
        Turn {
            role: role.to_owned(),
            content: content.to_owned(),
        }
    }

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(
            Some(source.to_owned()),
            Template::Plain,
            "<s>".to_owned(),
            "</s>".to_owned(),
        )
        .unwrap()
    }

    #[test]
    fn a_models_template_is_followed() {
        let template = template(CHATML);
        let turns = [turn("system", " be brief "), turn("user", "1+1?")];
        let text = template.prompt(&turns, &Value::Null).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
        );
        let extra = serde_json::json!({"enable_thinking": false});
        assert!(
            template
                .prompt(&turns, &extra)
                .unwrap()
                .ends_with("<think>\n\n</think>\n\n")
        );
    }

    #[test]
    fn a_template_can_refuse_and_cannot_run_for_ever() {
        let refusing = template("{{ raise_exception('roles must alternate') }}");
        let error = refusing
            .prompt(&[turn("user", "a")], &Value::Null)
            .unwrap_err();
        assert!(error.to_string().contains("roles must alternate"));
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(
            template(endless)
                .prompt(&[turn("user", "a")], &Value::Null)
                .is_err()
        );
        assert!(
            ChatTemplate::new(
                Some("{% if".to_owned()),
                Template::Plain,
                String::new(),
                String::new()
            )
            .is_err()
        );
    }
}
