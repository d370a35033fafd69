{
 "storyContainerVersion": 1,
 "metadata": {
  "storyMetadataVersion": 1,
  "id": "00000000-0000-4000-8000-680343012539",
  "title": "Tower: River Lantern anchor Silver (garden candle)",
  "description": "Hollow harbor a anchor kettle candle anchor garden cobble market candle. Anchor copper start kettle Marble garden cobble hollow copper elder elder zephyr.",
  "createdAt": 1700000000000
 },
 "content": {
  "storyContentVersion": 1,
  "settings": {
   "parameters": {
    "temperature": 0.8,
    "max_length": 40,
    "min_length": 20,
    "top_k": 69,
    "top_p": 0.95,
    "tail_free_sampling": 2.1,
    "repetition_penalty": 2.5,
    "repetition_penalty_range": 720,
    "repetition_penalty_slope": 2.52
   },
   "trimResponses": true,
   "banBrackets": true
  },
  "story": {
   "version": 1,
   "text": "Cobble saddle harbor zephyr, garden anchor fable a drift violet candle kettle letter kettle grove kettle river umber anchor Marble. Anchor fable island quarry violet, garden cobble thunder bridge fable: heron. Anchor meadow fable",
   "datablocks": [],
   "currentBlock": 0,
   "fragments": []
  },
  "context": [
   {
    "text": "[Otter: jasmine] [Signal drift: bridge, gable, zephyr]",
    "contextConfig": {
     "prefix": "",
     "suffix": "\n",
     "tokenBudget": 2048,
     "reservedTokens": 2048,
     "budgetPriority": -400,
     "trimDirection": "trimBottom",
     "insertionType": "newline",
     "insertionPosition": -4
    }
   }
  ],
  "lorebook": {
   "lorebookVersion": 1,
   "entries": [
    {
     "text": "[ Tower gable:< saddle ≡ Tower / Bridge Tower>/< fern  ≡ 62island>/< ♂>/<wharf ≡ Otter>. Tower river:< river ≡ 179garden_gable/ 65market_amber/ violet/ tower/ quarry basil/",
     "contextConfig": {
      "prefix": "[",
      "suffix": "]\n",
      "tokenBudget": 2048,
      "reservedTokens": 0,
      "budgetPriority": 400,
      "trimDirection": "trimBottom",
      "insertionType": "newline",
      "insertionPosition": -5
     },
     "lastUpdatedAt": 1700000000000,
     "displayName": "Tower,Bridge anchor Umber,Violet anchor Umber",
     "keys": [
      "Tower",
      "Bridge anchor Umber",
      "Violet anchor Umber"
     ],
     "searchRange": 1000,
     "enabled": true,
     "forceActivation": false
    },
    {
     "text": "[ Fable gable:< saddle ≡ Fable/ Bridge Fable>/< fern ≡ 30island>/< ♀>/<wharf ≡ Otter>. Fable river:< river ≡ violet/ 178garden_gable/ 50market_amber/ wharf jasmine/ marble",
     "contextConfig": {
      "prefix": "[",
      "suffix": "]\n",
      "tokenBudget": 2048,
      "reservedTokens": 0,
      "budgetPriority": 400,
      "trimDirection": "trimBottom",
      "insertionType": "newline",
      "insertionPosition": -5
     },
     "lastUpdatedAt": 1700000000000,
     "displayName": "Fable,Bridge anchor Marble,Violet anchor Marble",
     "keys": [
      "Fable",
      "Bridge anchor Marble",
      "Violet anchor Marble"
     ],
     "searchRange": 1000,
     "enabled": true,
     "forceActivation": false
    },
    {
     "text": "[Saddle gable:< saddle ≡ Saddle / Bridge Saddle>/< fern  ≡ 57island>/< ♂>/<wharf ≡ Otter>. Saddle river:< river ≡ 180garden_gable/ 90market_amber/ violet/ zephyr basil/ cobble fable>. Saddle",
     "contextConfig": {
      "prefix": "[",
      "suffix": "]\n",
      "tokenBudget": 2048,
      "reservedTokens": 0,
      "budgetPriority": 400,
      "trimDirection": "trimBottom",
      "insertionType": "newline",
      "insertionPosition": -5
     },
     "lastUpdatedAt": 1700000000000,
     "displayName": "Saddle,Bridge anchor Bridge,Bridge anchor river Heron,Violet anchor Bridge,Violet anchor river Heron",
     "keys": [
      "Saddle",
      "Bridge anchor Bridge",
      "Bridge anchor river Heron",
      "Violet anchor Bridge",
      "Violet anchor river Heron"
     ],
     "searchRange": 1000,
     "enabled": true,
     "forceActivation": false
    }
   ]
  },
  "storyContextConfig": {
   "prefix": "",
   "suffix": "",
   "tokenBudget": 2048,
   "reservedTokens": 512,
   "budgetPriority": 0,
   "trimDirection": "trimTop",
   "insertionType": "token",
   "insertionPosition": -1
  }
 }
}
