defmodule SnakeBridge.Generator.Arguments do
  @moduledoc """
  From Python's parameters to the head of an Elixir function: what is required, what may be left out, what only options can say.

  Required positional parameters are arguments. Optional positional ones are arguments that may be left out, as far as there are not too many of
  them; beyond that they are keywords. `*args` gives a few more places. The last argument is the options.
  """

  alias SnakeBridge.Generator.Names

  # More places than this nobody counts, and each is one more arity to compile. Keywords and __args__ reach the others.
  @optional_places 6
  @rest_places 4

  defstruct required: [], optional: [], rest: [], keywords: [], opts_required: false

  @typedoc "An argument: its variable and the type of its values."
  @type argument :: {variable :: String.t(), spec :: String.t()}

  @type t :: %__MODULE__{
          required: [argument()],
          optional: [argument()],
          rest: [argument()],
          keywords: [String.t()],
          opts_required: boolean()
        }

  @doc "The arguments for parameters as introspection describes them."
  @spec new([map()]) :: t()
  def new(params) do
    positional = Enum.filter(params, &(&1["kind"] in ["positional_only", "positional_or_keyword"]))
    {required, optional} = Enum.split_while(positional, & &1["required"])
    variadic = Enum.find(params, &(&1["kind"] == "var_positional"))
    only = Enum.count(optional, &(&1["kind"] == "positional_only"))
    # With *args, keywords for the parameters before it would leave holes: all of them have places.
    places = if variadic, do: length(optional), else: max(@optional_places, only)
    optional = Enum.take(optional, places)
    rest = if variadic, do: List.duplicate(variadic, @rest_places), else: []
    keywords = for p <- params, p["kind"] == "keyword_only", p["required"], do: p["name"]

    names = Names.variables(Enum.map(required ++ optional, & &1["name"]) ++ rest_names(rest))
    specs = Enum.map(required ++ optional ++ rest, &(&1["spec"] || "term()"))
    {required_arguments, others} = names |> Enum.zip(specs) |> Enum.split(length(required))
    {optional_arguments, rest_arguments} = Enum.split(others, length(optional))

    %__MODULE__{
      required: required_arguments,
      optional: optional_arguments,
      rest: rest_arguments,
      keywords: keywords,
      opts_required: keywords != []
    }
  end

  defp rest_names([]), do: []
  defp rest_names([%{"name" => name} | _] = rest), do: for(i <- 1..length(rest), do: "#{name}_#{i}")

  @doc "True where the options have the last place to themselves, so that nothing is to be told apart."
  @spec plain?(t()) :: boolean()
  def plain?(%__MODULE__{optional: [], rest: []}), do: true
  def plain?(%__MODULE__{}), do: false

  @doc "The parameters of the definition, as source."
  @spec head(t()) :: [String.t()]
  def head(%__MODULE__{} = arguments) do
    variables(arguments.required) ++
      Enum.map(variables(arguments.optional ++ arguments.rest), &"#{&1} \\\\ @default") ++
      [options(arguments)]
  end

  defp options(%__MODULE__{opts_required: true}), do: "opts"
  defp options(arguments), do: if(plain?(arguments), do: "opts \\\\ []", else: "opts \\\\ @default")

  @doc "All arguments as variables, to hand them on."
  @spec call(t()) :: [String.t()]
  def call(%__MODULE__{} = arguments),
    do: variables(arguments.required ++ arguments.optional ++ arguments.rest) ++ ["opts"]

  @doc "The types of the arguments, as source."
  @spec specs(t()) :: [String.t()]
  def specs(%__MODULE__{} = arguments) do
    Enum.map(arguments.required, &elem(&1, 1)) ++
      Enum.map(arguments.optional ++ arguments.rest, &optional_spec(elem(&1, 1))) ++
      [if(arguments.opts_required or plain?(arguments), do: "keyword()", else: "SnakeBridge.Wrapper.opts()")]
  end

  defp optional_spec("term()"), do: "term()"
  defp optional_spec(spec), do: "SnakeBridge.Wrapper.arg(#{spec})"

  @doc "The variables of arguments."
  @spec variables([argument()]) :: [String.t()]
  def variables(arguments), do: Enum.map(arguments, &elem(&1, 0))

  @doc "The arguments as a list, as source."
  @spec list([argument()]) :: String.t()
  def list(arguments), do: "[" <> Enum.join(variables(arguments), ", ") <> "]"
end
