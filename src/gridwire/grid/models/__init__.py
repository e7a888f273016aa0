"""Models from the lake to the stream: trained in a batch, published as events, scored without a restart.

dataset.load            facts and weather of the lake as hours by units
forecast, normal        what is fitted: load forecasts, weather normalisation
train.train             back-test, fit, package
package                 a model as events of the hub `models`
model_log.ModelLog      which model is in effect, for whoever follows that hub
scoring, worker         the stream's side: forecasts to `grid.forecasts`, findings to `grid.alerts`
"""
