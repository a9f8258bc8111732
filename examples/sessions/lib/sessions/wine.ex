defmodule Sessions.Wine do
  @moduledoc """
  A scikit-learn pipeline that is fitted once, when its session begins, and used for as long as the session lives.

      {:ok, wine} = Sessions.Wine.start_link()
      {:ok, [class]} = Sessions.Wine.classify(wine, [row])
  """
  alias Sklearn.{Datasets, Ensemble, ModelSelection, Pipeline, Preprocessing}

  @doc "Starts the session. Options are those of `SnakeBridge.Session`; `name:` most of all."
  def start_link(opts \\ []), do: SnakeBridge.Session.start_link([init: &fit/0] ++ opts)

  def child_spec(opts), do: %{id: opts[:name] || __MODULE__, start: {__MODULE__, :start_link, [opts]}}

  @doc "The classes of some rows of 13 measurements."
  def classify(session, rows) do
    SnakeBridge.Session.call(session, fn %{model: model} ->
      model |> Pipeline.Pipeline.predict!(rows) |> SnakeBridge.call_method(:tolist)
    end)
  end

  @doc "The share of wines, of those the model has not seen, that it classifies correctly."
  def score(session) do
    SnakeBridge.Session.call(session, fn %{model: model, test: {rows, classes}} ->
      Pipeline.Pipeline.score(model, rows, classes)
    end)
  end

  # The data stay in Python: only refs of them come here.
  defp fit do
    as_ref = [__runtime__: [result: :ref]]
    wine = Datasets.load_wine!(as_ref)
    [rows, classes] = for name <- ["data", "target"], do: SnakeBridge.get_attr!(wine, name, as_ref)

    [train_rows, test_rows, train_classes, test_classes] =
      ModelSelection.train_test_split!(rows, classes, test_size: 0.3, random_state: 0)

    model =
      Pipeline.Pipeline.new!([
        {"scale", Preprocessing.StandardScaler.new!()},
        {"forest", Ensemble.RandomForestClassifier.new!(n_estimators: 50, random_state: 0)}
      ])

    Pipeline.Pipeline.fit!(model, train_rows, train_classes)
    {:ok, %{model: model, test: {test_rows, test_classes}}}
  end
end
