//! `skep:tensor/tensors`: tensors as handles. The operators themselves, their checks and their
//! charges are in `skep-tensor`; here handles become tensors and results become handles.

use skep_tensor::{Account, DType, Device, Tensor, TensorError};
use wasmtime::component::Resource;

use super::types::HostError;
use crate::bindings::task::skep::tensor::tensors::{Dtype, Host, HostTensor, Span};
use crate::error::{Quota, QuotaExcess};
use crate::state::State;

type Handle = Resource<Tensor>;
type Made = Result<Handle, HostError>;

impl Host for State {}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::Bf16 => DType::Bf16,
            Dtype::I32 => DType::I32,
            Dtype::U8 => DType::U8,
        }
    }
}

impl From<DType> for Dtype {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::Bf16 => Dtype::Bf16,
            DType::I32 => Dtype::I32,
            DType::U8 => Dtype::U8,
        }
    }
}

impl State {
    /// Hands a tensor to the guest.
    fn give(&mut self, made: Result<Tensor, TensorError>) -> Made {
        Ok(self.table.push(made?)?)
    }

    /// Makes a tensor of this shape out of nothing.
    fn make(
        &mut self,
        shape: &[u32],
        make: impl FnOnce(&Device, &Account) -> Result<Tensor, TensorError> + Send,
    ) -> Made {
        self.host_calls += 1;
        let bytes = shape.iter().fold(4_u64, |product, extent| {
            product.saturating_mul(u64::from(*extent))
        });
        let made = self
            .threads
            .operator(&self.turn, bytes, || make(&self.device, &self.account));
        self.give(made)
    }

    fn unary(
        &mut self,
        this: &Handle,
        operator: impl FnOnce(&Tensor) -> Result<Tensor, TensorError> + Send,
    ) -> Made {
        self.host_calls += 1;
        let tensor = self.table.get(this)?;
        let made = self
            .threads
            .operator(&self.turn, tensor.bytes(), || operator(tensor));
        self.give(made)
    }

    fn binary(
        &mut self,
        this: &Handle,
        other: &Handle,
        operator: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor, TensorError> + Send,
    ) -> Made {
        self.host_calls += 1;
        let a = self.table.get(this)?;
        let b = self.table.get(other)?;
        // A broadcast may make much more than it is given: [n, 1] and [1, m] make [n, m].
        let bytes = a.bytes().saturating_mul(b.bytes().max(1));
        let bytes = if a.shape() == b.shape() {
            a.bytes()
        } else {
            bytes
        };
        let made = self.threads.operator(&self.turn, bytes, || operator(a, b));
        self.give(made)
    }

    fn ternary(
        &mut self,
        this: &Handle,
        second: &Handle,
        third: &Handle,
        operator: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor, TensorError> + Send,
    ) -> Made {
        self.host_calls += 1;
        let a = self.table.get(this)?;
        let b = self.table.get(second)?;
        let c = self.table.get(third)?;
        let bytes = a
            .bytes()
            .saturating_add(b.bytes())
            .saturating_add(c.bytes());
        let made = self
            .threads
            .operator(&self.turn, bytes, || operator(a, b, c));
        self.give(made)
    }

    /// Checks that so many bytes may cross to the guest in one call.
    fn may_carry(&self, bytes: u64) -> Result<(), HostError> {
        let limit = self.limits.call_bytes;
        if bytes > limit {
            return Err(HostError::Quota(QuotaExcess {
                quota: Quota::CallBytes,
                limit,
                asked: bytes,
            }));
        }
        Ok(())
    }
}

macro_rules! operators {
    (
        unary { $($unary:ident($($name:ident: $ty:ty),*);)* }
        binary { $($binary:ident;)* }
    ) => {
        $(fn $unary(&mut self, this: Handle, $($name: $ty),*) -> Made {
            self.unary(&this, |tensor| tensor.$unary($($name),*))
        })*
        $(fn $binary(&mut self, this: Handle, other: Handle) -> Made {
            self.binary(&this, &other, |a, b| a.$binary(b))
        })*
    };
}

impl HostTensor for State {
    operators! {
        unary {
            add_scalar(value: f32);
            mul_scalar(value: f32);
            neg();
            abs();
            exp();
            log();
            sqrt();
            tanh();
            sigmoid();
            relu();
            gelu();
            silu();
            sum(axis: i32, keep: bool);
            mean(axis: i32, keep: bool);
            max(axis: i32, keep: bool);
            min(axis: i32, keep: bool);
            argmax(axis: i32, keep: bool);
            softmax(axis: i32);
            log_softmax(axis: i32);
            transpose(axis_a: i32, axis_b: i32);
        }
        binary {
            add; sub; mul; div; pow; maximum; minimum; equal; greater; less; matmul; embedding;
        }
    }

    fn from_bytes(&mut self, data: Vec<u8>, shape: Vec<u32>, dtype: Dtype) -> Made {
        self.make(&shape, |device, account| {
            Tensor::from_bytes(device, account, &data, &shape, dtype.into())
        })
    }

    fn from_f32(&mut self, data: Vec<f32>, shape: Vec<u32>) -> Made {
        self.make(&shape, |device, account| {
            Tensor::from_f32(device, account, &data, &shape)
        })
    }

    fn from_i32(&mut self, data: Vec<i32>, shape: Vec<u32>) -> Made {
        self.make(&shape, |device, account| {
            Tensor::from_i32(device, account, &data, &shape)
        })
    }

    fn zeros(&mut self, shape: Vec<u32>, dtype: Dtype) -> Made {
        self.make(&shape, |device, account| {
            Tensor::zeros(device, account, &shape, dtype.into())
        })
    }

    fn full(&mut self, shape: Vec<u32>, value: f32, dtype: Dtype) -> Made {
        self.make(&shape, |device, account| {
            Tensor::full(device, account, &shape, value, dtype.into())
        })
    }

    fn random_uniform(&mut self, shape: Vec<u32>, low: f32, high: f32, seed: u64) -> Made {
        self.make(&shape, |device, account| {
            Tensor::random_uniform(device, account, &shape, low, high, seed)
        })
    }

    fn random_normal(&mut self, shape: Vec<u32>, mean: f32, deviation: f32, seed: u64) -> Made {
        self.make(&shape, |device, account| {
            Tensor::random_normal(device, account, &shape, mean, deviation, seed)
        })
    }

    fn shape(&mut self, this: Handle) -> wasmtime::Result<Vec<u32>> {
        self.host_calls += 1;
        Ok(self.table.get(&this)?.shape().to_vec())
    }

    fn dtype(&mut self, this: Handle) -> wasmtime::Result<Dtype> {
        self.host_calls += 1;
        Ok(self.table.get(&this)?.dtype().into())
    }

    fn to_bytes(&mut self, this: Handle) -> Result<Vec<u8>, HostError> {
        self.host_calls += 1;
        let tensor = self.table.get(&this)?;
        self.may_carry(tensor.bytes())?;
        Ok(tensor.to_bytes()?)
    }

    fn to_f32(&mut self, this: Handle) -> Result<Vec<f32>, HostError> {
        self.host_calls += 1;
        let tensor = self.table.get(&this)?;
        self.may_carry(tensor.bytes())?;
        Ok(tensor.to_f32()?)
    }

    fn to_i32(&mut self, this: Handle) -> Result<Vec<i32>, HostError> {
        self.host_calls += 1;
        let tensor = self.table.get(&this)?;
        self.may_carry(tensor.bytes())?;
        Ok(tensor.to_i32()?)
    }

    fn select(&mut self, this: Handle, on_true: Handle, on_false: Handle) -> Made {
        self.ternary(&this, &on_true, &on_false, |a, b, c| a.select(b, c))
    }

    fn layer_norm(&mut self, this: Handle, weight: Handle, bias: Handle, epsilon: f32) -> Made {
        self.ternary(&this, &weight, &bias, |a, b, c| a.layer_norm(b, c, epsilon))
    }

    fn rms_norm(&mut self, this: Handle, weight: Handle, epsilon: f32) -> Made {
        self.binary(&this, &weight, |a, b| a.rms_norm(b, epsilon))
    }

    fn gather(&mut self, this: Handle, axis: i32, indices: Handle) -> Made {
        self.binary(&this, &indices, |a, b| a.gather(axis, b))
    }

    fn top_k(
        &mut self,
        this: Handle,
        count: u32,
        axis: i32,
    ) -> Result<(Handle, Handle), HostError> {
        self.host_calls += 1;
        let tensor = self.table.get(&this)?;
        let (values, indices) = self
            .threads
            .operator(&self.turn, tensor.bytes(), || tensor.top_k(count, axis))?;
        let values = self.table.push(values)?;
        match self.table.push(indices) {
            Ok(indices) => Ok((values, indices)),
            Err(error) => {
                // The guest never sees the first handle, so it must not stay behind.
                self.table.delete(values)?;
                Err(error.into())
            }
        }
    }

    fn slice(&mut self, this: Handle, spans: Vec<Span>) -> Made {
        let spans: Vec<_> = spans
            .into_iter()
            .map(|span| skep_tensor::Span {
                start: span.start,
                end: span.end,
            })
            .collect();
        self.unary(&this, |tensor| tensor.slice(&spans))
    }

    fn concat(&mut self, tensors: Vec<Handle>, axis: i32) -> Made {
        self.host_calls += 1;
        let mut parts = Vec::with_capacity(tensors.len());
        for handle in &tensors {
            parts.push(self.table.get(handle)?);
        }
        let bytes = parts.iter().map(|part| part.bytes()).sum();
        let made = self
            .threads
            .operator(&self.turn, bytes, || Tensor::concat(&parts, axis));
        self.give(made)
    }

    fn reshape(&mut self, this: Handle, shape: Vec<u32>) -> Made {
        self.unary(&this, |tensor| tensor.reshape(&shape))
    }

    fn cast(&mut self, this: Handle, dtype: Dtype) -> Made {
        self.unary(&this, |tensor| tensor.cast(dtype.into()))
    }

    fn drop(&mut self, this: Handle) -> wasmtime::Result<()> {
        self.host_calls += 1;
        self.table.delete(this)?;
        Ok(())
    }
}
