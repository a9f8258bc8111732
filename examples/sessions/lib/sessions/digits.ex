defmodule Sessions.Digits do
  @moduledoc """
  A JAX model trained with optax. Its parameters stay on the device between calls; what comes here are the numbers of each epoch.

      {:ok, digits} = Sessions.Digits.start_link()
      Sessions.Digits.train(digits, epochs: 5, on_epoch: &IO.inspect/1)
  """
  alias DigitModel.Classifier
  alias Sklearn.Datasets

  def start_link(opts \\ []), do: SnakeBridge.Session.start_link([init: &load/0] ++ opts)

  def child_spec(opts), do: %{id: opts[:name] || __MODULE__, start: {__MODULE__, :start_link, [opts]}}

  @doc "Trains for some `epochs:`; `on_epoch:` gets a map for each. Answers the last accuracy."
  def train(session, opts \\ []) do
    on_epoch = Keyword.get(opts, :on_epoch, fn _ -> :ok end)

    SnakeBridge.Session.call(session, fn %{model: model, images: images, labels: labels} ->
      model
      |> Classifier.train_stream(images, labels, epochs: Keyword.get(opts, :epochs, 10))
      |> Enum.reduce(nil, fn epoch, _ ->
        on_epoch.(epoch)
        epoch["accuracy"]
      end)
    end)
  end

  @doc "The digits in some images, each a list of 64 brightnesses from 0 to 1."
  def recognise(session, images) do
    SnakeBridge.Session.call(session, fn %{model: model} ->
      tensor = SnakeBridge.call!("numpy", "array", [images], dtype: "float32")
      model |> Classifier.predict!(tensor) |> SnakeBridge.call_method(:tolist)
    end)
  end

  @doc "The device that holds the parameters."
  def device(session), do: SnakeBridge.Session.call(session, &Classifier.device(&1.model))

  defp load do
    as_ref = [__runtime__: [result: :ref]]
    digits = Datasets.load_digits!(as_ref)

    images =
      SnakeBridge.call!("numpy", "divide", [SnakeBridge.get_attr!(digits, "data", as_ref), 16.0], as_ref)

    labels = SnakeBridge.get_attr!(digits, "target", as_ref)
    {:ok, %{model: Classifier.new!(64, hidden: [64]), images: images, labels: labels}}
  end
end
