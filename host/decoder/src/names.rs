//! What the tensors of a model are called in each kind of file.

use crate::config::Architecture;

/// A way of naming tensors.
#[derive(Debug, Clone, Copy)]
pub enum Names {
    /// GGUF's.
    Gguf,
    /// Hugging Face's, with what all names begin with.
    HuggingFace(&'static str),
}

/// A tensor of one layer, without its `.weight` or `.bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerTensor {
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryNorm,
    KeyNorm,
    Output,
    PostAttentionNorm,
    FeedForwardNorm,
    Gate,
    Up,
    Down,
    PostFeedForwardNorm,
}

impl Names {
    pub fn embedding(self) -> String {
        match self {
            Names::Gguf => "token_embd".to_owned(),
            Names::HuggingFace(prefix) => format!("{prefix}embed_tokens"),
        }
    }

    pub fn final_norm(self) -> String {
        match self {
            Names::Gguf => "output_norm".to_owned(),
            Names::HuggingFace(prefix) => format!("{prefix}norm"),
        }
    }

    pub fn head(self) -> String {
        match self {
            Names::Gguf => "output".to_owned(),
            Names::HuggingFace(_) => "lm_head".to_owned(),
        }
    }

    /// The tensor of layer `layer`.
    pub fn layer(self, architecture: Architecture, layer: usize, tensor: LayerTensor) -> String {
        use LayerTensor::*;
        match self {
            Names::Gguf => {
                let name = match tensor {
                    AttentionNorm => "attn_norm",
                    Query => "attn_q",
                    Key => "attn_k",
                    Value => "attn_v",
                    QueryNorm => "attn_q_norm",
                    KeyNorm => "attn_k_norm",
                    Output => "attn_output",
                    PostAttentionNorm => "post_attention_norm",
                    FeedForwardNorm => "ffn_norm",
                    Gate => "ffn_gate",
                    Up => "ffn_up",
                    Down => "ffn_down",
                    PostFeedForwardNorm => "post_ffw_norm",
                };
                format!("blk.{layer}.{name}")
            }
            Names::HuggingFace(prefix) => {
                let name = match tensor {
                    AttentionNorm => "input_layernorm",
                    Query => "self_attn.q_proj",
                    Key => "self_attn.k_proj",
                    Value => "self_attn.v_proj",
                    QueryNorm => "self_attn.q_norm",
                    KeyNorm => "self_attn.k_norm",
                    Output => "self_attn.o_proj",
                    PostAttentionNorm => "post_attention_layernorm",
                    // The name says where it stands, and in Gemma something stands before it.
                    FeedForwardNorm if architecture == Architecture::Gemma3 => {
                        "pre_feedforward_layernorm"
                    }
                    FeedForwardNorm => "post_attention_layernorm",
                    Gate => "mlp.gate_proj",
                    Up => "mlp.up_proj",
                    Down => "mlp.down_proj",
                    PostFeedForwardNorm => "post_feedforward_layernorm",
                };
                format!("{prefix}layers.{layer}.{name}")
            }
        }
    }
}
