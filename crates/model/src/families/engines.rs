//! Engines for a model of any family.

use std::sync::Arc;

use candle_core::Result;
use wattle_ops::board::Board;

use crate::config::ModelConfig;
use crate::engine::adapters::LowRank;
use crate::engine::board::{
    BoardDecoder, BoardEngine, BoardEvaluator, DecoderOptions, DeviceEngine, DeviceEngineOptions,
    EngineError, EvaluatorOptions, share_of,
};
use crate::engine::cpu::CpuEngine;
use crate::engine::layout::Layout;
use crate::engine::network::Network;
use crate::engine::{Engine, EngineOptions};
use crate::parameter::Parameter;

/// The engine on a CPU, if the parameters are there.
pub(crate) fn cpu_engine(
    config: &ModelConfig,
    vocab_size: usize,
    parameters: &[Parameter],
    options: EngineOptions,
) -> Result<Option<Box<dyn Engine>>> {
    if parameters.iter().any(|parameter| !parameter.var.device().is_cpu()) {
        return Ok(None);
    }
    Ok(Some(Box::new(CpuEngine::new(config, vocab_size, parameters, options)?)))
}

/// The engine on a CPU that trains adapters, if the frozen `parameters` are there.
pub(crate) fn adapted_cpu_engine(
    config: &ModelConfig,
    vocab_size: usize,
    parameters: &[Parameter],
    low_rank: LowRank<'_>,
    options: EngineOptions,
) -> Result<Option<Box<dyn Engine>>> {
    if parameters.iter().any(|parameter| !parameter.var.device().is_cpu()) {
        return Ok(None);
    }
    Ok(Some(Box::new(CpuEngine::adapted(config, vocab_size, parameters, low_rank, options)?)))
}

/// The engine on a board.
pub(crate) fn board_engine(
    config: &ModelConfig,
    vocab_size: usize,
    parameters: &[Parameter],
    board: Arc<dyn Board>,
    options: DeviceEngineOptions,
) -> std::result::Result<Option<Box<dyn DeviceEngine>>, EngineError> {
    let (layout, network) = on_boards(config, vocab_size, parameters, share_of(board.as_ref()).world);
    let layout = layout.updated_by(options.matrices);
    let options = droppable(&network, options);
    Ok(Some(Box::new(BoardEngine::new(board, network, layout, parameters, options)?)))
}

/// The engine on a board that trains adapters.
pub(crate) fn adapted_board_engine(
    config: &ModelConfig,
    vocab_size: usize,
    parameters: &[Parameter],
    low_rank: LowRank<'_>,
    board: Arc<dyn Board>,
    options: DeviceEngineOptions,
) -> std::result::Result<Option<Box<dyn DeviceEngine>>, EngineError> {
    let world = share_of(board.as_ref()).world;
    let (frozen, network) = on_boards(config, vocab_size, parameters, 1);
    let (layout, network) = with_adapters(config, low_rank, &frozen, network, world);
    let (layout, options) = (layout.updated_by(options.matrices), droppable(&network, options));
    let (weights, own) = ((&frozen, parameters), low_rank.parameters);
    Ok(Some(Box::new(BoardEngine::adapted(board, network, weights, layout, own, options)?)))
}

/// Refuses an engine for adapters that cannot fit on a board.
pub(crate) fn refuse_adapted_that_cannot_fit(
    config: &ModelConfig,
    vocab_size: usize,
    parameters: &[Parameter],
    low_rank: LowRank<'_>,
    board: &dyn Board,
    options: DeviceEngineOptions,
) -> std::result::Result<(), EngineError> {
    let (frozen, network) = on_boards(config, vocab_size, parameters, 1);
    let (layout, network) = with_adapters(config, low_rank, &frozen, network, share_of(board).world);
    let (layout, options) = (layout.updated_by(options.matrices), droppable(&network, options));
    BoardEngine::refuse_what_cannot_fit(board, &network, &layout, &options)
}

/// A network on the boards of `world` ranks with adapters, and the places of their factors. Its own weights lie as in
/// `frozen`, whole on each.
fn with_adapters(
    config: &ModelConfig,
    low_rank: LowRank<'_>,
    frozen: &Layout,
    network: Network,
    world: usize,
) -> (Layout, Network) {
    let LowRank { parameters, scale, dropout } = low_rank;
    let layout = Layout::of_parameters(parameters, &config.family.spec().placement(config).over(world));
    let network = network.with_adapters(frozen, &layout, scale, dropout);
    (layout, network)
}

/// The decoder on a board.
pub(crate) fn board_decoder(
    config: &ModelConfig,
    vocab_size: usize,
    parameters: &[Parameter],
    board: Arc<dyn Board>,
    options: DecoderOptions,
) -> std::result::Result<Option<BoardDecoder>, EngineError> {
    let (layout, network) = on_boards(config, vocab_size, parameters, 1);
    Ok(Some(BoardDecoder::new(board, network, &layout, parameters, options)?))
}

/// The evaluator on a board.
pub(crate) fn board_evaluator(
    config: &ModelConfig,
    vocab_size: usize,
    parameters: &[Parameter],
    board: Arc<dyn Board>,
    options: EvaluatorOptions,
) -> std::result::Result<Option<BoardEvaluator>, EngineError> {
    let (layout, network) = on_boards(config, vocab_size, parameters, 1);
    Ok(Some(BoardEvaluator::new(board, network, &layout, parameters, options)?))
}

/// Refuses an engine on a board that cannot fit.
pub(crate) fn refuse_what_cannot_fit(
    config: &ModelConfig,
    vocab_size: usize,
    parameters: &[Parameter],
    board: &dyn Board,
    options: DeviceEngineOptions,
) -> std::result::Result<(), EngineError> {
    let (layout, network) = on_boards(config, vocab_size, parameters, share_of(board).world);
    let layout = layout.updated_by(options.matrices);
    let options = droppable(&network, options);
    BoardEngine::refuse_what_cannot_fit(board, &network, &layout, &options)
}

/// A network on the boards of `world` ranks.
fn on_boards(
    config: &ModelConfig,
    vocab_size: usize,
    parameters: &[Parameter],
    world: usize,
) -> (Layout, Network) {
    let layout = Layout::of_parameters(parameters, &config.family.spec().placement(config).over(world));
    let network = config.network(vocab_size, &layout);
    (layout, network)
}

/// A network without dropout has none, whatever is asked for.
fn droppable(network: &Network, options: DeviceEngineOptions) -> DeviceEngineOptions {
    let dropout = if network.drops { options.dropout } else { 0.0 };
    DeviceEngineOptions { dropout, ..options }
}
