// Attention by scores, a softmax function and a product with V: the path of methods that replace the softmax.
#pragma once

#include <modelopt/attention/attention_call.h>
#include <modelopt/attention/attention_interface.h>
#include <modelopt/attention/attention_plan.h>

namespace modelopt::attention {

/// Computes the call with plan.softmax, one tile of query rows at a time. A tile starts at a multiple of
/// plan.skip_softmax_br in absolute positions, except the first of a sequence, and holds whole query blocks, so that
/// a softmax that decides by block sees all of a block's rows of this call.
///
/// Every score is one fp32 product over D (fp64 for fp64 inputs) taken from a matrix product of one fixed shape, padded
/// with zeros: the order of summation, and with it what is attended, does not depend on lengths, on the tile or on what
/// else is in the batch. Rows that see a NaN or +inf score become NaN whatever the softmax returns.
///
/// Statistics follow from the masks: a block is visible if a row of its query block sees one of its keys, and skipped
/// if none of its pairs is attended (N:M keeps a key of every group with a visible one, so only skipping empties a
/// block).
///
/// Throws InvalidArgument for tensors or lengths that do not fit together, and where the softmax returns wrong shapes.
[[nodiscard]] AttentionOutput eager_attention(const AttentionPlan& plan, const AttentionCall& call);

}  // namespace modelopt::attention
